"""``python -m lamemo_fairseq.evaluate``, as it was called before there was ``lamemo evaluate``."""

from .evaluation.grid import main, prepare_process

if __name__ == "__main__":
    prepare_process()
    main()
