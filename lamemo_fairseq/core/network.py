"""A transformer language model with memory: embeddings, layers, output layer, and a state from segment to segment.

::

    model = MemoryTransformer(ModelConfig(vocab_size=len(words)))
    features, state, aux = model(tokens, state)          # a segment [B, N]; the first state is None
    loss = -model.target_log_probs(features.flatten(0, 1), targets.flatten()).mean()

    segment = model.new_segment(streams=1, state=state)
    features = model.decode_step(tokens, segment)        # [B, 1, D], of the last token

Nothing is kept on the model: what it remembers is the state. Slow reference: ``tests/reference.py``
(``segment``, ``stream_logits``). Letters as in ``softmax.py``.
"""

from dataclasses import dataclass, replace
from typing import Dict, Iterator, List, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import fused_softmax
from .attention import RelativeAttention
from .compiled import run_compiled
from .config import ModelConfig
from .decoding import DecodingSegment
from .documents import Tracker
from .errors import UsageError
from .fast_decode import fast_decode_layers
from .layer import Layer
from .memory import MemoryState, SegmentRecord
from .positions import AttentionGeometry, Positions
from .probe import Probe
from .softmax import full_precision, softmax_dtype
from .vocabulary import adaptive_head, embedding


@dataclass(frozen=True)
class Auxiliary:
    """What a segment gives beside features and state.

    Attributes:
        alphas: per layer that looked ahead, the weight [B, H, M] of the slots' earlier attention (LaMemo, equation 6).
        usage: per layer, how much was read of each part of the memory, where its kind asks for that; else None.
        losses: in training, what the memory wants to have minimised beside the text's loss, in nats per token.
    """

    alphas: List[Tensor]
    usage: List[Optional[Tensor]]
    losses: Dict[str, Tensor]


class ModelOutput(NamedTuple):
    """``features`` [B, N, D] before the output layer, the memory after the segment, and what else there is to know."""

    features: Tensor
    state: MemoryState
    aux: Auxiliary


class LayersOutput(NamedTuple):
    """``features`` [B, N, D], what the memory may be updated with, and alphas per layer that looked ahead."""

    features: Tensor
    record: SegmentRecord
    alphas: List[Tensor]


class MemoryTransformer(nn.Module):
    """A language model whose memory is any of ``memory.KINDS``.

    Args:
        cfg: sizes and parts.
    """

    output_bias: Optional[Tensor]

    def __init__(self, cfg: ModelConfig) -> None:
        nn.Module.__init__(self)  # not super(): a decoder of a framework is initialised by itself
        self.dim, self.dropout = cfg.dim, cfg.dropout
        self.segment_length, self.separator = cfg.segment_length, cfg.separator
        self.checkpoint_activations = cfg.checkpoint_activations
        self.fused, self.compiles = cfg.fused, cfg.compile
        self.memory = cfg.make_memory()
        encoding = cfg.make_encoding()
        reach = self.memory.capacity if cfg.same_length else None
        self.positions = Positions(encoding, reach, self.memory.looks_ahead, self.memory.looks_both_ways)
        self.embed_tokens = embedding(cfg.vocabulary, cfg.vocab_size, cfg.pad, cfg.dim)
        # Fairseq looks for "adaptive_softmax", and would then take states for scores.
        self.adaptive_head = adaptive_head(cfg.vocabulary, cfg.vocab_size, cfg.dim, self.embed_tokens)
        bias = None if self.adaptive_head else nn.Parameter(torch.zeros(cfg.vocab_size))
        self.register_parameter("output_bias", bias)
        self.biases = encoding.biases(self.memory.looks_ahead, cfg.heads, cfg.head_width)
        self.layers = nn.ModuleList(
            Layer(
                RelativeAttention(cfg.dim, cfg.heads, cfg.head_width, cfg.attention_dropout, encoding, cfg.fused),
                cfg.dim,
                cfg.ffn_dim,
                cfg.dropout,
                cfg.normalize_before,
            )
            for _ in range(cfg.layers)
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
        tokens: Tensor,
        state: Optional[MemoryState] = None,
        *,
        tokens_to_memory: Optional[int] = None,
        documents: Optional[Tensor] = None,
        probe: Optional[Probe] = None,
    ) -> ModelOutput:
        """Reads a segment behind a memory.

        Args:
            tokens: [B, N] ids.
            state: the memory, as the segment before returned it; None: empty.
            tokens_to_memory: how many of the tokens enter the memory (all, unless the last ones come again as context).
            documents: [B, N] numbers; a token sees only its own document. None: one document per stream.
            probe: shown where attention goes.
        """
        x = self.embed(tokens, 0)
        empty = self.memory.empty(tokens.size(0), x)
        state = empty if state is None else state.like(empty)
        geometry = self.geometry(x, state, documents)
        if self.compiles and self.training and tokens.size(1) == self.segment_length and probe is None:
            state = state.map(Tensor.contiguous)  # a graph belongs to one layout too, and some kinds cut theirs out
            layers = run_compiled(MemoryTransformer.forward_layers, x.device, self, x, state, geometry, documents)
        else:
            layers = self.forward_layers(x, state, geometry, documents, probe)
        features, record, alphas = layers
        count = tokens.size(1) if tokens_to_memory is None else tokens_to_memory
        losses = {}
        if self.training:
            losses = self.memory.losses(
                state, record, count, [layer for layer in self.layers if isinstance(layer, Layer)]
            )
        with full_precision(x):
            after = self.memory.update(state, record, count)
        return ModelOutput(features, after, Auxiliary(alphas, record.usage, losses))

    def embed(self, tokens: Tensor, first: int) -> Tensor:
        """Scaled embeddings [B, N, D], after dropout; ``first`` is the place of the first in its segment."""
        x = self.positions.encoding.add_places(self.embed_tokens(tokens) * self.dim**0.5, first)
        return F.dropout(x, self.dropout, self.training)

    def geometry(
        self,
        x: Tensor,
        state: MemoryState,
        documents: Optional[Tensor],
        before: int = 0,
        capacity: Optional[int] = None,
    ) -> AttentionGeometry:
        """Masks and encodings for tokens ``x`` [B, N, D] behind ``state`` (and ``before`` cached tokens)."""
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
        lengths = (N, state.length, state.last_written)
        if self.memory.recomputes and before == 0:
            # Slots are tokens like those of the segment, in front of them.
            lengths = (state.length + N, 0, 0)
            capacity = None if capacity is None else state.length + capacity
        geometry = self.positions.geometry(*lengths, x, before=before, capacity=capacity, documents=documents)
        if geometry.encodings is None or not self.training:
            return geometry
        return replace(geometry, encodings=self.positions.encoding.drop(geometry.encodings, self.dropout))

    def forward_layers(
        self,
        x: Tensor,
        state: MemoryState,
        geometry: AttentionGeometry,
        documents: Optional[Tensor] = None,
        probe: Optional[Probe] = None,
        segment: Optional[DecodingSegment] = None,
    ) -> LayersOutput:
        """Through all layers. With ``segment``, keys and values are cached, and a further chunk reads them."""
        record, alphas = SegmentRecord(x, documents=documents), []
        continued = segment is not None and segment.length > 0
        memory_hidden, joined = x[:, :0] if continued else self.memory.input_memory(state, x), None
        for number, layer in enumerate(self.layers):
            memory = self.memory.recall(state, number, memory_hidden)
            if joined is not None and memory.hidden_states is memory_hidden:
                memory = replace(memory, joined=joined)  # what would have to be put together again
            if continued:
                memory = memory.cached()
            cache = None if segment is None else segment.parts[number].cache
            if segment is not None:
                segment.parts[number].reads_long_term = memory.long_term is not None
            record.inputs.append(x.detach())
            wants = self.memory.wants_attention(number), self.memory.wants_usage(number)
            look = None if probe is None else probe.layer(number)
            arguments = (x, memory, geometry, self.biases, *wants, cache, look)
            if self.checkpoint_activations and self.training:
                out = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                out = layer(*arguments)
            x, memory_hidden, joined = out.current, out.memory_hidden, out.joined
            record.attention_state.append(out.attention_state)
            record.usage.append(out.usage)
            record.losses.append(out.loss)
            if out.alpha is not None:
                alphas.append(out.alpha.detach())
        return LayersOutput(F.dropout(x, self.dropout, self.training), record, alphas)

    def output_layer(self, features: Tensor) -> Tensor:
        """Scores [B, N, V] over the vocabulary: the weights are the embeddings', or log-probabilities if adaptive."""
        if self.adaptive_head is not None:
            return self.adaptive_head.log_probs(features)
        assert isinstance(self.embed_tokens.weight, Tensor)
        return F.linear(features, self.embed_tokens.weight, self.output_bias)

    def log_probs(self, features: Tensor) -> Tensor:
        """Log-probabilities [B, N, V] of the next tokens, in float32 or wider."""
        return F.log_softmax(self.output_layer(features), dim=-1, dtype=softmax_dtype(features.dtype))

    def target_log_probs(self, features: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities [n] of ``targets`` [n] given ``features`` [n, D], in float32 or wider."""
        if self.adaptive_head is not None:
            return self.adaptive_head.target_log_probs(features, targets)
        weight, bias = self.embed_tokens.weight, self.output_bias
        assert isinstance(weight, Tensor) and bias is not None
        if self.fused and fused_softmax.pays(features, weight.size(0)):
            return fused_softmax.chunked_target_log_probs(features, weight, bias, targets)
        return self.log_probs(features).gather(1, targets.unsqueeze(1)).squeeze(1)

    # Decoding: the same segments, token by token.

    def new_segment(self, streams: int, state: Optional[MemoryState] = None) -> DecodingSegment:
        """A segment that waits for its first token, behind ``state`` (default: an empty memory)."""
        if state is None:
            state = self.memory.empty(streams, next(self.layers.parameters()))
        tracker = None
        if self.separator is not None:
            tracker = Tracker(self.separator, streams, next(self.layers.parameters()).device)
            if state.documents is not None and state.last is not None and state.length > 0:
                tracker.number, tracker.last = state.documents[:, -1], state.last
        return DecodingSegment(state, self.segment_length, len(self.layers), tracker)

    def decode_step(self, tokens: Tensor, segment: DecodingSegment) -> Tensor:
        """Reads the next tokens [B, n] of a text; features [B, 1, D] of the last."""
        assert tokens.size(1) > 0, "no new token was given"
        *_, features = self.decode_tokens(tokens, segment)
        return features[:, -1:]

    def decode_tokens(self, tokens: Tensor, segment: DecodingSegment) -> Iterator[Tensor]:
        """Reads the next tokens [B, n] of a text; yields features [B, n', D] of one (part of a) segment each."""
        start = 0
        while start < tokens.size(1):
            if segment.is_full:
                segment.close(self.memory)
            chunk = tokens[:, start : start + segment.capacity - segment.length]
            yield self.decode_chunk(chunk, segment)
            start += chunk.size(1)

    def decode_chunk(self, tokens: Tensor, segment: DecodingSegment) -> Tensor:
        """Reads tokens [B, n] that fit into the segment; features [B, n, D]."""
        x = self.embed(tokens, segment.length)
        if tokens.size(1) == 1 and self.can_step(segment):
            x, reach = x.squeeze(1), self.positions.reach
            if segment.weights is None:
                segment.weights = fast_decode_layers(self.layers, self.biases, x, self.fused)
            return segment.step(x, segment.weights, reach, self.memory).unsqueeze(1)
        documents = None if segment.tracker is None else segment.documents.append(segment.tracker.read(tokens))
        geometry = self.geometry(x, segment.state, documents, before=segment.length, capacity=segment.capacity)
        done = self.forward_layers(x, segment.state, geometry, segment=segment)
        segment.append(done.record)
        return done.features

    def can_step(self, segment: DecodingSegment) -> bool:
        """Whether a single token may go through ``fast_decode.py``: not a segment's first one, which refreshes the
        memory; not in training; not where documents are told apart, which takes a mask per stream."""
        return segment.length > 0 and not self.training and segment.tracker is None
