"""Adaptive input and adaptive softmax: rarer words get narrower vectors (arXiv 1809.10853, 1609.04309).

Parameters have the names, shapes and initial values of fairseq's modules, so that its checkpoints load; what is
computed is exact (fairseq's loss leaves out a word of each tail cluster) and works under autocast. Words are ranked by
frequency, as a dictionary numbers them; a cluster holds the ranks between two cutoffs. Slow reference:
``adaptive_log_probs`` in ``tests/reference_family.py``.
"""

from dataclasses import dataclass
from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UsageError, refuse_unless_default
from .softmax import softmax_dtype


@dataclass(frozen=True)
class VocabularyOptions:
    """The flags of the embeddings and of the output layer."""

    adaptive_input: bool = False
    adaptive_input_cutoff: Optional[str] = None
    adaptive_input_factor: float = 4
    adaptive_softmax_cutoff: Optional[str] = None
    adaptive_softmax_factor: float = 4
    adaptive_softmax_dropout: float = 0.0
    tie_adaptive_weights: bool = False
    tie_adaptive_proj: bool = False

    def check(self) -> None:
        """Raises ``UsageError`` where flags contradict each other; :func:`cutoffs` needs the vocabulary's size."""
        softmax = self.adaptive_softmax_cutoff
        if softmax is None:
            for name in ("adaptive_input", "adaptive_softmax_factor", "adaptive_softmax_dropout"):
                refuse_unless_default(self, name, "--adaptive-softmax-cutoff", "the full softmax")
        if not self.adaptive_input:
            for name in ("adaptive_input_cutoff", "adaptive_input_factor", "tie_adaptive_weights"):
                refuse_unless_default(self, name, "--adaptive-input", "full embeddings")
        if not 0 <= self.adaptive_softmax_dropout < 1:
            raise UsageError(
                f"--adaptive-softmax-dropout {self.adaptive_softmax_dropout} is not in [0, 1): choose e.g. 0.1"
            )
        if self.tie_adaptive_proj and not self.tie_adaptive_weights:
            raise UsageError("--tie-adaptive-proj needs --tie-adaptive-weights: give both, or leave it out")
        if self.tie_adaptive_weights:
            if self.adaptive_input_cutoff not in (None, softmax):
                raise UsageError(
                    f"--tie-adaptive-weights needs equal cutoffs, not --adaptive-input-cutoff "
                    f"{self.adaptive_input_cutoff} and --adaptive-softmax-cutoff {softmax}: leave out the first"
                )
            if self.adaptive_input_factor != self.adaptive_softmax_factor:
                raise UsageError(
                    f"--tie-adaptive-weights needs equal factors, not --adaptive-input-factor "
                    f"{self.adaptive_input_factor:g} and --adaptive-softmax-factor {self.adaptive_softmax_factor:g}: "
                    "choose one for both"
                )


def cutoffs(flag: str, value: str, words: int) -> List[int]:
    """The cutoffs in ``value``, e.g. ``"20000,60000"``, below ``words`` = V; others are a ``UsageError``."""
    try:
        ends = [int(part) for part in value.split(",")]
    except ValueError:
        raise UsageError(f"--{flag} {value} is no list of ranks: give numbers joined by commas") from None
    if any(later <= earlier for earlier, later in zip([0, *ends], ends)):
        raise UsageError(f"--{flag} {value} does not rise from 1 upwards: give rising ranks, e.g. 20000,60000")
    if ends[-1] >= words:
        raise UsageError(
            f"--{flag} {value} goes above the vocabulary of {words} words: choose ranks below {words}, or leave it out"
        )
    return ends


class AdaptiveEmbedding(nn.Module):
    """Embeddings of falling width, each cluster projected to D.

    Args:
        words: V.
        pad: the symbol whose embedding begins as zeros.
        dim: D, and the width of the first cluster.
        factor: how much narrower each cluster is than the one before.
        ends: cutoffs, without V.
    """

    def __init__(self, words: int, pad: int, dim: int, factor: float, ends: List[int]) -> None:
        super().__init__()
        self.cutoff = [*ends, words]
        self.embeddings = nn.ModuleList()
        for number, (start, end) in enumerate(zip([0, *self.cutoff], self.cutoff)):
            width = int(dim // factor**number)
            table = nn.Embedding(end - start, width, pad if number == 0 and pad < end else None)
            self.embeddings.append(nn.Sequential(table, nn.Linear(width, dim, bias=False)))
        for number in range(len(self.cutoff)):
            table, projection = self.parts(number)
            nn.init.normal_(table.weight, std=table.embedding_dim**-0.5)
            if pad < table.num_embeddings:  # in fairseq's modules in every cluster, which the pad is not part of
                nn.init.zeros_(table.weight[pad])
            nn.init.xavier_uniform_(projection.weight)
        self.register_buffer("_float_tensor", torch.zeros(1))  # in fairseq's checkpoints, unused

    def parts(self, number: int) -> Tuple[nn.Embedding, nn.Linear]:
        """A cluster's embeddings, with weight [words, width], and projection, with weight [D, width]."""
        cluster = self.embeddings[number]
        assert isinstance(cluster, nn.Sequential)
        table, projection = cluster
        assert isinstance(table, nn.Embedding) and isinstance(projection, nn.Linear)
        return table, projection

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N] ids -> [B, N, D]."""
        result: Optional[Tensor] = None
        start = 0
        for end, cluster in zip(self.cutoff, self.embeddings):
            inside = (tokens >= start) & (tokens < end)
            # Ids outside read the cluster's first word, and are then hidden: no shape depends on the text.
            vectors = cluster((tokens - start).clamp(0, end - start - 1)) * inside.unsqueeze(-1)
            result = vectors if result is None else result + vectors
            start = end
        assert result is not None
        return result


class TiedLinear(nn.Module):
    """A linear layer whose weight is another module's, or its transpose."""

    def __init__(self, weight: Tensor, transpose: bool) -> None:
        super().__init__()
        self.weight, self.transpose = weight, transpose

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.t() if self.transpose else self.weight)


class TiedHead(nn.Module):
    """Scores of the frequent words, by their embeddings, and of the tail clusters."""

    def __init__(self, embeddings: Tensor, dim: int, clusters: int) -> None:
        super().__init__()
        self.word_proj = TiedLinear(embeddings, transpose=False)
        self.class_proj = nn.Linear(dim, clusters, bias=False)
        self.register_buffer("_float_tensor", torch.zeros(1))  # in fairseq's checkpoints, unused

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.word_proj(x), self.class_proj(x)], dim=-1)


class AdaptiveHead(nn.Module):
    """Log-probabilities in two steps: the frequent words and the clusters, then the words of a cluster.

    Args:
        words: V.
        dim: D.
        ends: cutoffs, without V.
        dropout: on features, and inside the tail clusters.
        factor: how much narrower each cluster is than the one before.
        tied: embeddings with the same cutoffs and factor, whose weights are used; None for own ones.
        tie_projections: their projections too.
    """

    def __init__(
        self,
        words: int,
        dim: int,
        ends: List[int],
        dropout: float,
        factor: float,
        tied: Optional[AdaptiveEmbedding],
        tie_projections: bool,
    ) -> None:
        super().__init__()
        self.cutoff, self.dropout = [*ends, words], dropout
        self.head: nn.Module
        if tied is None:
            self.head = nn.Linear(dim, ends[0] + len(ends), bias=False)
        else:
            self.head = TiedHead(tied.parts(0)[0].weight, dim, len(ends))
        self.tail = nn.ModuleList()
        for number, (start, end) in enumerate(zip(self.cutoff, self.cutoff[1:]), start=1):
            width = int(dim // factor**number)
            inner: nn.Module
            if tied is not None and tie_projections:
                inner = TiedLinear(tied.parts(number)[1].weight, transpose=True)
            else:
                inner = nn.Linear(dim, width, bias=False)
            outer: nn.Module
            if tied is not None:
                outer = TiedLinear(tied.parts(number)[0].weight, transpose=False)
            else:
                outer = nn.Linear(width, end - start, bias=False)
            self.tail.append(nn.Sequential(inner, nn.Dropout(dropout), outer))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        self.register_buffer("version", torch.ones(1, dtype=torch.long))  # in fairseq's checkpoints, unused

    def clusters(self) -> "zip[tuple[int, int, nn.Module]]":
        """(first word, word after the last, output layer) of each tail cluster."""
        return zip(self.cutoff, self.cutoff[1:], self.tail)

    def log_probs(self, features: Tensor) -> Tensor:
        """[..., D] -> [..., V], float32 or wider: one distribution over all words.

        Slow reference: ``adaptive_log_probs`` in ``tests/reference_family.py``.
        """
        wide = softmax_dtype(features.dtype)
        head = F.log_softmax(self.first(features), dim=-1, dtype=wide)
        parts = [head[..., : self.cutoff[0]]]
        for number, (_, _, tail) in enumerate(self.clusters()):
            inside = F.log_softmax(tail(features), dim=-1, dtype=wide)
            parts.append(inside + head[..., self.cutoff[0] + number, None])
        return torch.cat(parts, dim=-1)

    def target_log_probs(self, features: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities [n] of ``targets`` [n], given ``features`` [n, D]: only their clusters are computed.

        Slow reference: ``adaptive_log_probs`` in ``tests/reference_family.py``.
        """
        wide = softmax_dtype(features.dtype)
        head = F.log_softmax(self.first(features), dim=-1, dtype=wide)
        entry = targets.clone()
        for number, (start, end, _) in enumerate(self.clusters()):
            entry[(targets >= start) & (targets < end)] = self.cutoff[0] + number
        result = head.gather(1, entry.unsqueeze(1)).squeeze(1)
        for start, end, tail in self.clusters():
            inside = ((targets >= start) & (targets < end)).nonzero().squeeze(1)
            inside_log_probs = F.log_softmax(tail(features[inside]), dim=-1, dtype=wide)
            found = inside_log_probs.gather(1, (targets[inside] - start).unsqueeze(1)).squeeze(1)
            result = result.index_add(0, inside, found)
        return result

    def first(self, features: Tensor) -> Tensor:
        """Scores [..., cutoff + clusters] of the frequent words and of the clusters."""
        return self.head(F.dropout(features, self.dropout, self.training))


def embedding(options: VocabularyOptions, words: int, pad: int, dim: int) -> nn.Module:
    """The embeddings: [B, N] ids -> [B, N, D]."""
    if not options.adaptive_input:
        return nn.Embedding(words, dim)
    value, flag = options.adaptive_input_cutoff, "adaptive-input-cutoff"
    if value is None:
        value, flag = options.adaptive_softmax_cutoff, "adaptive-softmax-cutoff"
    assert value is not None
    ends = cutoffs(flag, value, words)
    check_widths("adaptive-input-factor", options.adaptive_input_factor, dim, len(ends))
    return AdaptiveEmbedding(words, pad, dim, options.adaptive_input_factor, ends)


def adaptive_head(options: VocabularyOptions, words: int, dim: int, embeddings: nn.Module) -> Optional[AdaptiveHead]:
    """The adaptive softmax, or None where the output layer is the full one."""
    if options.adaptive_softmax_cutoff is None:
        return None
    ends = cutoffs("adaptive-softmax-cutoff", options.adaptive_softmax_cutoff, words)
    check_widths("adaptive-softmax-factor", options.adaptive_softmax_factor, dim, len(ends))
    tied = None
    if options.tie_adaptive_weights:
        assert isinstance(embeddings, AdaptiveEmbedding)
        tied = embeddings
    dropout, factor = options.adaptive_softmax_dropout, options.adaptive_softmax_factor
    return AdaptiveHead(words, dim, ends, dropout, factor, tied, options.tie_adaptive_proj)


def check_widths(flag: str, factor: float, dim: int, clusters: int) -> None:
    """Raises ``UsageError`` where the last of ``clusters`` would have no width left."""
    if factor < 1 or dim // factor**clusters < 1:
        raise UsageError(
            f"--{flag} {factor:g} leaves the last of {clusters} clusters no width of {dim}: choose a factor of 1 or "
            "more, small enough"
        )
