"""The decoder: embeddings, layers, output layer, and how a segment continues from a memory.

Letters as in ``ops.py``. Fairseq calls it in three ways: with a stream whose memory the segment continues
(training, scoring), with an incremental state (generation), or with neither (one block, no memory).
"""

from dataclasses import replace
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.data import Dictionary
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..data.memory_store import MemoryStore
from ..plugin.config import LaMemoConfig
from .attention import Biases, RelativeAttention
from .decoding import DecodingSegment
from .documents import Separator, Tracker
from .errors import UsageError
from .fast_decode import fast_decode_layers
from .layer import Layer
from .memory import KINDS, MemoryState, SegmentRecord
from .positions import AttentionGeometry, Positions
from .probe import Probe
from .softmax import full_precision, softmax_dtype
from .vocabulary import adaptive_head, embedding

STATE_KEY = "lamemo"


class Pass(NamedTuple):
    """One way up the layers: ``top`` [B, N, D], what the memory may take in, and alphas [layers][B, H, M]."""

    top: Tensor
    record: SegmentRecord
    alphas: List[Tensor]


class LaMemoDecoder(FairseqIncrementalDecoder):
    """A language model whose memory is any of ``memory.KINDS``.

    Args:
        cfg: the model's configuration, checked.
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
        super().__init__(dictionary)
        D, H, d = cfg.decoder_embed_dim, cfg.decoder_attention_heads, cfg.head_dim
        self.dim, self.dropout, self.segment_length, self.separator = D, cfg.dropout, segment_length, separator
        self.checkpoint_activations = cfg.checkpoint_activations
        self.positions = Positions(
            cfg.encoding,
            D,
            cfg.clamp_len if cfg.clamp_len > 0 else None,
            KINDS[cfg.memory_type].capacity(cfg) if cfg.same_length else None,
            cfg.look_ahead == "full",
        )
        self.memory = KINDS[cfg.memory_type](cfg)
        self.embed_tokens = embedding(cfg, len(dictionary), dictionary.pad())
        # Fairseq looks for "adaptive_softmax", and would then take states for scores.
        self.adaptive_head = adaptive_head(cfg, len(dictionary), self.embed_tokens)
        bias = None if self.adaptive_head else nn.Parameter(torch.zeros(len(dictionary)))
        self.register_parameter("output_bias", bias)
        self.biases = Biases(cfg.encoding, self.memory.looks_ahead, H, d)
        self.layers = nn.ModuleList(
            Layer(
                RelativeAttention(D, H, d, cfg.attention_dropout, self.positions.relative, cfg.max_distance),
                D,
                cfg.decoder_ffn_embed_dim,
                cfg.dropout,
                cfg.decoder_normalize_before,
            )
            for _ in range(cfg.decoder_layers)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every matrix and vector bias from N(0, 0.02), as Transformer-XL's trainer does."""
        for name, parameter in self.named_parameters():
            if "norm" not in name and not name.endswith("bias") and not name.startswith("adaptive_head"):
                nn.init.normal_(parameter, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith((".fc1.bias", ".fc2.bias")):
                nn.init.zeros_(parameter)

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: None = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        src_lengths: Optional[Tensor] = None,
        features_only: bool = False,
        stream: Optional[MemoryStore] = None,
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
            features_only: return states before the output layer.
            stream: whose memory this segment continues; None reads the block alone.
            segment: the segment's number in its stream.
            tokens_to_memory: how many of the tokens enter the memory (all, unless the last ones come again as context).
            documents: [B, N] numbers; a token sees only its own document. None: one document per stream.
            targets: [B, N] ids whose log-probabilities [B, N] are returned in place of scores.
            probe: shown where attention goes.

        Returns:
            scores [B, N, V] (or features [B, N, D]) and a dictionary: ``alpha``, and in training ``losses``, what
            the memory wants to have minimised beside the text's loss (see ``criterion.py``).
        """
        if incremental_state is not None:
            x = self.extend(prev_output_tokens, incremental_state)
            extra: Dict[str, Any] = {"attn": None}  # fairseq's own generator looks for it
        else:
            x, extra = self.read(prev_output_tokens, stream, segment, tokens_to_memory, documents, probe)
        if targets is not None:
            return self.target_log_probs(x.flatten(0, 1), targets.flatten()).view(targets.shape), extra
        return (x if features_only else self.output_layer(x)), extra

    def read(
        self,
        tokens: Tensor,
        stream: Optional[MemoryStore],
        segment: int,
        tokens_to_memory: Optional[int],
        documents: Optional[Tensor],
        probe: Optional[Probe] = None,
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """One whole segment [B, N], from a stream's memory to a stream's memory."""
        B, N = tokens.shape
        x = self.embed(tokens, 0)
        state = None if stream is None else stream.recall(self, segment, B)
        empty = self.memory.empty(B, x)
        state = empty if state is None else state.like(empty)
        plan = self.plan(x, state, documents)
        top, record, alphas = self.forward_layers(x, state, plan, documents, probe=probe)
        extra: Dict[str, Any] = {"alpha": alphas}
        tokens_to_memory = N if tokens_to_memory is None else tokens_to_memory
        if self.training:
            layers = [layer for layer in self.layers if isinstance(layer, Layer)]
            extra["losses"] = self.memory.losses(state, record, tokens_to_memory, layers)
        if stream is not None:
            with full_precision(x):
                after = self.memory.update(state, record, tokens_to_memory)
            stream.keep(self, segment, after)
            stream.alphas = alphas
        return top, extra

    def embed(self, tokens: Tensor, first: int) -> Tensor:
        """Scaled embeddings [B, N, D], after dropout; ``first`` is the place of the first in its segment."""
        x = self.embed_tokens(tokens) * self.dim**0.5
        if not self.positions.relative:
            x = x + self.positions.places(first, tokens.size(1), x)
        return F.dropout(x, self.dropout, self.training)

    def plan(
        self,
        x: Tensor,
        state: MemoryState,
        documents: Optional[Tensor],
        before: int = 0,
        capacity: Optional[int] = None,
    ) -> AttentionGeometry:
        """The plan for tokens ``x`` [B, N, D] behind ``state`` (and ``before`` cached tokens)."""
        B, N = x.shape[:2]
        if documents is not None and not self.memory.separates_documents:
            raise UsageError(
                "this --memory-type keeps one signal per stream and cannot tell documents apart: choose another"
            )
        if documents is not None or state.documents is not None:
            held, new = state.documents, documents
            if held is None:
                held = x.new_zeros(B, state.length, dtype=torch.long)
            if new is None:
                new = x.new_zeros(B, before + N, dtype=torch.long)
            documents = torch.cat([held, new], dim=1)
        plan = self.positions.plan(
            N,
            state.length,
            state.last_written,
            x,
            looks_ahead=self.memory.looks_ahead,
            before=before,
            capacity=capacity,
            documents=documents,
        )
        if plan.encodings is None or not self.training or not plan.encodings.is_floating_point():
            return plan  # a learned table is read by distances as such (shaw): nothing of them can be dropped
        return replace(plan, encodings=F.dropout(plan.encodings, self.dropout))

    def forward_layers(
        self,
        x: Tensor,
        state: MemoryState,
        plan: AttentionGeometry,
        documents: Optional[Tensor] = None,
        opened: Optional[DecodingSegment] = None,
        probe: Optional[Probe] = None,
    ) -> Pass:
        """Through all layers. With ``opened``, keys and values are cached, and a further chunk reads them."""
        record, alphas = SegmentRecord(x, documents=documents), []
        continued = opened is not None and opened.length > 0
        memory_hidden = x[:, :0] if continued else self.memory.input_memory(state, x)
        for number, layer in enumerate(self.layers):
            recall = self.memory.recall(state, number, memory_hidden)
            if continued:
                recall = recall.reread()
            cache = None if opened is None else opened.caches[number]
            if opened is not None:
                opened.cached &= recall.beyond is None
            record.inputs.append(x.detach())
            wants = self.memory.wants_attention(number), self.memory.wants_usage(number)
            look = None if probe is None else probe.layer(number)
            arguments = (x, recall, plan, self.biases, *wants, cache, look)
            if self.checkpoint_activations and self.training:
                out = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                out = layer(*arguments)
            x, memory_hidden = out.current, out.memory_hidden
            record.attention_state.append(out.attention_state)
            record.usage.append(out.usage)
            record.losses.append(out.loss)
            if out.alpha is not None:
                alphas.append(out.alpha.detach())
        return Pass(F.dropout(x, self.dropout, self.training), record, alphas)

    def extend(self, tokens: Tensor, incremental_state: Dict[str, Any]) -> Tensor:
        """Reads those of ``tokens`` [B, t] that were not read yet; features [B, 1, D] of the last."""
        opened: Optional[DecodingSegment] = incremental_state.get(STATE_KEY)
        if opened is None:
            opened = self.open(tokens.size(0))
            incremental_state[STATE_KEY] = opened
        top = None
        for features in self.decode_tokens(tokens[:, opened.read :], opened):
            top = features
        assert top is not None, "no new token was given"
        return top[:, -1:]

    def decode_tokens(self, tokens: Tensor, opened: DecodingSegment) -> Iterator[Tensor]:
        """Reads tokens [B, n] behind those that were read; features [B, n', D] of one (part of a) segment each."""
        start = 0
        while start < tokens.size(1):
            if opened.is_full:
                opened.close(self.memory)
            chunk = tokens[:, start : start + opened.capacity - opened.length]
            yield self.decode_chunk(chunk, opened)
            start += chunk.size(1)

    def open(self, streams: int, state: Optional[MemoryState] = None) -> DecodingSegment:
        """A segment that waits for its first token, behind ``state`` (default: an empty memory)."""
        if state is None:
            state = self.memory.empty(streams, next(self.layers.parameters()))
        tracker = None
        if self.separator is not None:
            tracker = Tracker(self.separator, streams, next(self.layers.parameters()).device)
            if state.documents is not None and state.last is not None and state.length > 0:
                tracker.number, tracker.last = state.documents[:, -1], state.last
        return DecodingSegment(state, self.segment_length, len(self.layers), tracker)

    def decode_chunk(self, tokens: Tensor, opened: DecodingSegment) -> Tensor:
        """Reads tokens [B, n] that fit into the open segment; features [B, n, D]."""
        x = self.embed(tokens, opened.length)
        if tokens.size(1) == 1 and self.can_step(opened):
            if opened.weights is None:
                opened.weights = fast_decode_layers(self.layers, self.biases)
            return opened.step(x.squeeze(1), opened.weights, self.positions.reach).unsqueeze(1)
        documents = None if opened.tracker is None else opened.documents.append(opened.tracker.read(tokens))
        plan = self.plan(x, opened.state, documents, before=opened.length, capacity=opened.capacity)
        done = self.forward_layers(x, opened.state, plan, opened=opened)
        opened.take(done.record)
        return done.top

    def can_step(self, opened: DecodingSegment) -> bool:
        """Whether a single token may go through ``steps.py``: what it reads is all in the caches of keys."""
        counted = any(self.memory.wants_usage(layer) for layer in range(len(self.layers)))
        learned = self.positions.encoding == "shaw"
        apart = opened.tracker is not None
        return opened.length > 0 and opened.cached and not (self.training or counted or learned or apart)

    def reorder_incremental_state(self, incremental_state: Dict[str, Any], new_order: Tensor) -> None:
        """Moves everything that a stream keeps to its new place; the identity costs nothing."""
        opened: Optional[DecodingSegment] = incremental_state.get(STATE_KEY)
        if opened is not None:
            opened.reorder(new_order)

    def output_layer(self, features: Tensor, **unused: Any) -> Tensor:
        """Scores [B, N, V] over the vocabulary: the weights are the embeddings', or log-probabilities if adaptive."""
        if self.adaptive_head is not None:
            return self.adaptive_head.log_probs(features)
        assert isinstance(self.embed_tokens.weight, Tensor)
        return F.linear(features, self.embed_tokens.weight, self.output_bias)

    def target_log_probs(self, features: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities [n] of ``targets`` [n] given ``features`` [n, D], in float32 or wider."""
        if self.adaptive_head is not None:
            return self.adaptive_head.target_log_probs(features, targets)
        scores = F.log_softmax(self.output_layer(features), dim=-1, dtype=softmax_dtype(features.dtype))
        return scores.gather(1, targets.unsqueeze(1)).squeeze(1)

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
