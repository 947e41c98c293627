"""Sizes that have a name. Each is a short difference from the defaults of ``LaMemoConfig``.

One table for both ways into fairseq: ``--arch NAME`` on the command line, and the YAML files under ``examples/``
that ``scripts/write_configs.py`` makes from it. Sizes of the authors: their run scripts for LaMemo-base
(arXiv 2204.07341, appendix A; Transformer-XL's for the same corpora in arXiv 1901.02860).
"""

from typing import Any, Dict

PRESETS: Dict[str, Dict[str, Any]] = {
    "lamemo_lm_small": {
        "decoder_layers": 4,
        "decoder_embed_dim": 128,
        "decoder_ffn_embed_dim": 512,
        "decoder_attention_heads": 4,
        "mem_len": 64,
    },
    "lamemo_lm_wt103_base": {
        "decoder_layers": 16,
        "decoder_embed_dim": 410,
        "decoder_ffn_embed_dim": 2100,
        "decoder_attention_heads": 10,
        "mem_len": 150,
    },
    "lamemo_lm_enwik8_base": {
        "decoder_layers": 12,
        "decoder_embed_dim": 512,
        "decoder_ffn_embed_dim": 2048,
        "decoder_attention_heads": 8,
        "mem_len": 512,
    },
    "lamemo_lm_text8_base": {
        "decoder_layers": 12,
        "decoder_embed_dim": 512,
        "decoder_ffn_embed_dim": 2048,
        "decoder_attention_heads": 8,
        "mem_len": 512,
    },
}
