"""The files and writers that fairseq logs to, closed where a run or an epoch is over.

Fairseq opens ``--log-file`` anew for each epoch beside the handlers of all earlier ones, so that epoch n is written n
times. It keeps that handler, the writers of tensorboard and the run of wandb until the process ends; jobs of hydra's
``--multirun`` share a process, and would all write into the logs of the first.
"""

import logging

from fairseq.logging import progress_bar as bars
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf


def end_earlier_logs() -> None:
    """Ends the logs of runs that this process trained before; called where one begins, whose own file is open."""
    keep_newest_file(logging.getLogger("fairseq_cli.train"), 1)
    keep_newest_file(bars.logger, 0)
    for writer in bars._tensorboard_writers.values():
        writer.close()
    bars._tensorboard_writers.clear()
    # A run of wandb that stands in the first job is the caller's, who wants it to be used.
    if bars.wandb is not None and bars.wandb.run is not None and is_later_job():
        bars.wandb.finish()


def is_later_job() -> bool:
    """Whether this is a job of hydra's ``--multirun`` that follows another one."""
    if not HydraConfig.initialized():
        return False
    job = HydraConfig.get().job
    return not OmegaConf.is_missing(job, "num") and int(job.num) > 0


def keep_newest_file(logger: logging.Logger, newest: int) -> None:
    """Closes the files that ``logger`` writes to, but for so many of the newest."""
    files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    for handler in files[: len(files) - newest]:
        logger.removeHandler(handler)
        handler.close()
