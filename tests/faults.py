"""A criterion that fails where a test wants it to: what a GPU does when its memory is full, on any machine.

``FAULTS=rank:segment,...`` in the environment names the segments of training in whose step that happens, once each.
"""

import os
from typing import Any, Dict, Tuple

from fairseq.criterions import register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, CrossEntropyCriterionConfig

from lamemo_fairseq.training.distributed import rank


@register_criterion("failing_cross_entropy", dataclass=CrossEntropyCriterionConfig)
class FailingCrossEntropy(CrossEntropyCriterion):
    """Cross entropy that runs out of memory."""

    def __init__(self, task: Any, sentence_avg: bool) -> None:
        super().__init__(task, sentence_avg)
        self.left = [tuple(map(int, fault.split(":"))) for fault in os.environ.get("FAULTS", "").split(",") if fault]

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Any, int, Dict[str, Any]]:
        result = super().forward(model, sample, reduce)
        place = (rank(), sample["net_input"].get("segment"))
        if model.training and place in self.left:
            self.left.remove(place)
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB (a test's fault)")
        return result
