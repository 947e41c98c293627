"""The table of kinds that tests run over, and tiny models of them. A new kind is one line here."""

from typing import Any, Dict, List, Optional

import torch
from fairseq.data import Dictionary
from torch import Tensor

from lamemo_fairseq.data.memory_store import MemoryStore
from lamemo_fairseq.plugin.config import LaMemoConfig
from lamemo_fairseq.plugin.decoder import LaMemoDecoder

ADAPTIVE = {"adaptive_softmax_cutoff": "9,15", "adaptive_softmax_factor": 2.0}
KINDS: Dict[str, Dict[str, Any]] = {
    "lookahead": {},
    "lookahead-v2": {"position_encoding": "disentangled-v2"},
    "lookahead-xl": {"position_encoding": "transformer-xl"},
    "lookahead-full": {"look_ahead": "full"},
    "lookahead-none": {"look_ahead": "none"},
    "lookahead-detached": {"detach_memory": True},
    "lookahead-pre-norm": {"decoder_normalize_before": True},
    "lookahead-adaptive": {**ADAPTIVE, "adaptive_input": True, "adaptive_input_factor": 2.0},
    "recurrence": {"memory_type": "recurrence"},
    "recurrence-shaw": {"memory_type": "recurrence", "position_encoding": "shaw", "max_distance": 6},
    "recurrence-adaptive": {"memory_type": "recurrence", **ADAPTIVE},
    "none": {"memory_type": "none"},
    "none-xl": {"memory_type": "none", "position_encoding": "transformer-xl"},
    "compressive": {"memory_type": "compressive", "compression_rate": 2},
    "compressive-pre-norm": {"memory_type": "compressive", "compression_rate": 2, "decoder_normalize_before": True},
    "compressive-dilated": {"memory_type": "compressive", "compression_rate": 2, "compression": "dilated-conv"},
    "compressive-mean": {"memory_type": "compressive", "compression_rate": 3, "compression": "mean"},
    "compressive-max": {"memory_type": "compressive", "compression_rate": 3, "compression": "max"},
    "compressive-used": {"memory_type": "compressive", "compression_rate": 2, "compression": "most-used"},
    "continuous": {"memory_type": "continuous", "long_term_basis": 8},
    "continuous-sticky": {"memory_type": "continuous", "long_term_basis": 8, "long_term_sticky": True},
}
SIZES = {
    "decoder_layers": 3,
    "decoder_embed_dim": 12,
    "decoder_ffn_embed_dim": 16,
    "decoder_attention_heads": 2,
    "mem_len": 6,
    "dropout": 0.0,
}
SEGMENT = 4
WORDS = 23


def dictionary() -> Dictionary:
    """WORDS symbols, fairseq's four among them."""
    words = Dictionary()
    for number in range(WORDS - len(words)):
        words.add_symbol(f"w{number}")
    return words


def make(kind: str, seed: int = 0, scale: float = 0.3, **changes: Any) -> LaMemoDecoder:
    """A tiny float64 model in evaluation mode, with weights large enough that every part of it matters."""
    cfg = LaMemoConfig(**{**SIZES, **KINDS[kind], **changes})
    cfg.check()
    decoder = LaMemoDecoder(cfg, dictionary(), SEGMENT).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in decoder.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = scale * noise + (1 if name.endswith("norm.weight") else 0)
    return decoder


def text(streams: int, tokens: int, seed: int = 0) -> Tensor:
    """Random words [B, tokens]."""
    return torch.randint(4, WORDS, (streams, tokens), generator=torch.Generator().manual_seed(seed))


def pieces(tokens: Tensor) -> List[Tensor]:
    """Segments of a text [B, .]."""
    return list(tokens.split(SEGMENT, dim=1))


def read(decoder: LaMemoDecoder, tokens: Tensor, documents: Optional[Tensor] = None) -> Tensor:
    """Log-probabilities [B, ., V] of a text that is read segment by segment."""
    store = MemoryStore("test")
    numbers = [None] * len(pieces(tokens)) if documents is None else pieces(documents)
    scores = [
        decoder.get_normalized_probs(decoder(piece, store=store, segment=k, documents=number), log_probs=True)
        for k, (piece, number) in enumerate(zip(pieces(tokens), numbers))
    ]
    return torch.cat(scores, dim=1)


def state_after(decoder: LaMemoDecoder, tokens: Tensor) -> Any:
    """The memory's state after a text."""
    store = MemoryStore("test")
    for k, piece in enumerate(pieces(tokens)):
        decoder(piece, store=store, segment=k)
    return store.committed[decoder].state
