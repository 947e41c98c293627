"""Adaptive input and adaptive softmax: rarer words get narrower vectors (arXiv 1809.10853, 1609.04309).

Fairseq's modules hold the weights, and its checkpoints' names with them; what is computed with them stands here,
because their own loss leaves out a word of each tail cluster and their own input fails under autocast. Words are
ranked by frequency, as a dictionary numbers them; a cluster holds the ranks between two cutoffs. V words.
"""

from typing import List, Optional

import torch
import torch.nn.functional as F
from fairseq.modules import AdaptiveInput, AdaptiveSoftmax
from torch import Tensor, nn

from ..plugin.config import LaMemoConfig
from .errors import UsageError
from .softmax import softmax_dtype


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


class AdaptiveEmbedding(AdaptiveInput):
    """Embeddings of falling width, each cluster projected to D. Initialised as the full ones."""

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N] ids -> [B, N, D]."""
        result: Optional[Tensor] = None
        start = 0
        for end, cluster in zip(self.cutoff, self.embeddings):
            inside = (tokens >= start) & (tokens < end)
            # Ids outside read the cluster's first word, and are then hidden: no shape depends on the text.
            rows = cluster((tokens - start).clamp(0, end - start - 1)) * inside.unsqueeze(-1)
            result = rows if result is None else result + rows
            start = end
        assert result is not None
        return result


class AdaptiveHead(AdaptiveSoftmax):
    """Log-probabilities in two steps: the frequent words and the clusters, then the words of a cluster."""

    def clusters(self) -> "zip[tuple[int, int, nn.Module]]":
        """(first word, word after the last, output layer) of each tail cluster."""
        return zip(self.cutoff, self.cutoff[1:], self.tail)

    def log_probs(self, features: Tensor) -> Tensor:
        """[..., D] -> [..., V], float32 or wider: one distribution over all words."""
        wide = softmax_dtype(features.dtype)
        head = F.log_softmax(self.first(features), dim=-1, dtype=wide)
        parts = [head[..., : self.cutoff[0]]]
        for number, (_, _, tail) in enumerate(self.clusters()):
            inside = F.log_softmax(tail(features), dim=-1, dtype=wide)
            parts.append(inside + head[..., self.cutoff[0] + number, None])
        return torch.cat(parts, dim=-1)

    def target_log_probs(self, features: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities [n] of ``targets`` [n], given ``features`` [n, D]: only their clusters are computed."""
        wide = softmax_dtype(features.dtype)
        head = F.log_softmax(self.first(features), dim=-1, dtype=wide)
        entry = targets.clone()
        for number, (start, end, _) in enumerate(self.clusters()):
            entry[(targets >= start) & (targets < end)] = self.cutoff[0] + number
        result = head.gather(1, entry.unsqueeze(1)).squeeze(1)
        for start, end, tail in self.clusters():
            inside = ((targets >= start) & (targets < end)).nonzero().squeeze(1)
            rows = F.log_softmax(tail(features[inside]), dim=-1, dtype=wide)
            found = rows.gather(1, (targets[inside] - start).unsqueeze(1)).squeeze(1)
            result = result.index_add(0, inside, found)
        return result

    def first(self, features: Tensor) -> Tensor:
        """Scores [..., cutoff + clusters] of the frequent words and of the clusters."""
        flat = self.head(self.dropout_module(features).flatten(0, -2))
        return flat.view(*features.shape[:-1], -1)


def embedding(cfg: LaMemoConfig, words: int, pad: int) -> nn.Module:
    """The embeddings: [B, N] ids -> [B, N, D]."""
    if not cfg.adaptive_input:
        return nn.Embedding(words, cfg.decoder_embed_dim)
    value, flag = cfg.adaptive_input_cutoff, "adaptive-input-cutoff"
    if value is None:
        value, flag = cfg.adaptive_softmax_cutoff, "adaptive-softmax-cutoff"
    assert value is not None
    D = cfg.decoder_embed_dim
    check_widths("adaptive-input-factor", cfg.adaptive_input_factor, D, len(cutoffs(flag, value, words)))
    return AdaptiveEmbedding(words, pad, D, cfg.adaptive_input_factor, D, cutoffs(flag, value, words))


def adaptive_head(cfg: LaMemoConfig, words: int, embeddings: nn.Module) -> Optional[AdaptiveHead]:
    """The adaptive softmax, or None where the output layer is the full one."""
    if cfg.adaptive_softmax_cutoff is None:
        return None
    ends = cutoffs("adaptive-softmax-cutoff", cfg.adaptive_softmax_cutoff, words)
    check_widths("adaptive-softmax-factor", cfg.adaptive_softmax_factor, cfg.decoder_embed_dim, len(ends))
    return AdaptiveHead(
        words,
        cfg.decoder_embed_dim,
        ends,
        cfg.adaptive_softmax_dropout,
        cfg.adaptive_softmax_factor,
        embeddings if cfg.tie_adaptive_weights else None,
        cfg.tie_adaptive_proj,
    )


def check_widths(flag: str, factor: float, dim: int, clusters: int) -> None:
    """Raises ``UsageError`` where the last of ``clusters`` would have no width left."""
    if factor < 1 or dim // factor**clusters < 1:
        raise UsageError(
            f"--{flag} {factor:g} leaves the last of {clusters} clusters no width of {dim}: choose a factor of 1 or "
            "more, small enough"
        )
