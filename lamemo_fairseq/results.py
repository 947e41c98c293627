"""``python -m lamemo_fairseq.results``, as it was called before there was ``lamemo report``."""

from .study.records import main

if __name__ == "__main__":
    main()
