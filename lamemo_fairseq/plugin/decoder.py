"""Fairseq's decoder: ``MemoryTransformer`` with a memory store, an incremental state and a dictionary around it.

Fairseq calls it in three ways: with a store whose memory the segment continues (training, scoring), with an
incremental state (generation), or with neither (one block, no memory).
"""

from typing import Any, Dict, Optional, Tuple

import torch.nn.functional as F
from fairseq.data import Dictionary
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor

from ..core.decoding import DecodingSegment
from ..core.documents import Separator
from ..core.network import MemoryTransformer
from ..core.probe import Probe
from ..core.softmax import softmax_dtype
from ..data.memory_store import MemoryStore
from .config import LaMemoConfig

STATE_KEY = "lamemo"


class LaMemoDecoder(MemoryTransformer, FairseqIncrementalDecoder):
    """A ``MemoryTransformer`` as fairseq wants it; its parameters are that one's, under the same names.

    Args:
        cfg: the model's flags, checked.
        dictionary: symbols; its size is V.
        segment_length: tokens after which an incremental decoder refreshes its memory.
        separator: behind which an incremental decoder reads on with an empty memory; None: it never does.
    """

    def __init__(
        self,
        cfg: LaMemoConfig,
        dictionary: Dictionary,
        segment_length: int,
        separator: Optional[Separator] = None,
    ) -> None:
        FairseqIncrementalDecoder.__init__(self, dictionary)
        MemoryTransformer.__init__(self, cfg.model(len(dictionary), segment_length, separator, dictionary.pad()))

    def forward(  # type: ignore[override]  # fairseq's own signature
        self,
        prev_output_tokens: Tensor,
        encoder_out: None = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        src_lengths: Optional[Tensor] = None,
        features_only: bool = False,
        store: Optional[MemoryStore] = None,
        segment: int = 0,
        tokens_to_memory: Optional[int] = None,
        documents: Optional[Tensor] = None,
        targets: Optional[Tensor] = None,
        probe: Optional[Probe] = None,
        **unused: Any,
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """Scores of the next tokens.

        Args:
            prev_output_tokens: [B, N] ids.
            encoder_out: always None: there is no encoder.
            incremental_state: generation: only the tokens that were not yet read are, and the last one's scores
                are returned.
            src_lengths: not needed; fairseq passes it.
            features_only: return hidden states before the output layer.
            store: whose memory this segment continues; None reads the block alone.
            segment: the segment's number in its stream.
            tokens_to_memory: how many of the tokens enter the memory (all, unless the last ones come again as context).
            documents: [B, N] numbers; a token sees only its own document. None: one document per stream.
            targets: [B, N] ids whose log-probabilities [B, N] are returned in place of scores.
            probe: shown where attention goes.

        Returns:
            scores [B, N, V] (or features [B, N, D]) and a dictionary: ``alpha`` and in training ``losses``, as in
            ``core.network.Auxiliary``.
        """
        if incremental_state is not None:
            features = self.decode_incrementally(prev_output_tokens, incremental_state)
            extra: Dict[str, Any] = {"attn": None}  # fairseq's own generator looks for it
        else:
            before = None if store is None else store.recall(self, segment, prev_output_tokens.size(0))
            features, after, aux = MemoryTransformer.forward(
                self, prev_output_tokens, before, tokens_to_memory=tokens_to_memory, documents=documents, probe=probe
            )
            extra = {"alpha": aux.alphas}
            if self.training:
                extra["losses"] = aux.losses
            if store is not None:
                store.keep(self, segment, after, aux.alphas)
        if targets is not None:
            return self.target_log_probs(features.flatten(0, 1), targets.flatten()).view(targets.shape), extra
        return (features if features_only else self.output_layer(features)), extra

    def decode_incrementally(self, tokens: Tensor, incremental_state: Dict[str, Any]) -> Tensor:
        """Incremental decoding: reads those of ``tokens`` [B, t] that are new; features [B, 1, D] of the last."""
        segment: Optional[DecodingSegment] = incremental_state.get(STATE_KEY)
        if segment is None:
            segment = self.new_segment(tokens.size(0))
            incremental_state[STATE_KEY] = segment
        return self.decode_step(tokens[:, segment.tokens_seen :], segment)

    def reorder_incremental_state(self, incremental_state: Dict[str, Any], new_order: Tensor) -> None:
        """Reorders the streams (beams) of the incremental state; the identity costs nothing."""
        segment: Optional[DecodingSegment] = incremental_state.get(STATE_KEY)
        if segment is not None:
            segment.reorder(new_order)

    def output_layer(self, features: Tensor, **unused: Any) -> Tensor:
        """As the model's own; fairseq passes more."""
        return super().output_layer(features)

    def get_normalized_probs(
        self,
        net_output: Tuple[Tensor, Any],
        log_probs: bool,
        sample: Optional[Dict[str, Any]] = None,
    ) -> Tensor:
        """(Log-)probabilities [B, N, V], in float32 or wider."""
        function = F.log_softmax if log_probs else F.softmax
        return function(net_output[0], dim=-1, dtype=softmax_dtype(net_output[0].dtype))

    def max_positions(self) -> int:
        """No limit: fairseq needs a number, and this one is beyond any text."""
        return 10**9
