"""``python -m lamemo_fairseq.evaluate``, as it was called before there was ``lamemo evaluate``."""

from .cli.main import old_spelling

if __name__ == "__main__":
    old_spelling("python -m lamemo_fairseq.evaluate", ["evaluate"])
