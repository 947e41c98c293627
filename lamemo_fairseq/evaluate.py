"""``python -m lamemo_fairseq.evaluate``: the grid of evaluations."""

from .evaluation.grid import main, prepare_process

if __name__ == "__main__":
    prepare_process()
    main()
