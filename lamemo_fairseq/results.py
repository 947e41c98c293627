"""``python -m lamemo_fairseq.results``, as it was called before there was ``lamemo report``."""

from .cli.main import old_spelling

if __name__ == "__main__":
    old_spelling("python -m lamemo_fairseq.results", ["report"])
