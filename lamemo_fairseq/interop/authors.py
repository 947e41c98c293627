"""Converts checkpoints of the authors' program to fairseq's.

Read are dictionaries with ``model_config`` (their constructor's arguments), ``model_state`` (their parameter names) and
``vocab`` (symbols by id, or their ``Vocab``); no code from them runs. Ids are remapped by symbol, since fairseq's
dictionary begins with symbols of its own; what only fairseq's has can never be predicted, so that losses stay the same.
"""

import os
from typing import Any, Dict, List, Tuple

import torch
from fairseq import options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from torch import Tensor

from ..core.errors import UsageError
from ..training.checkpoint_io import is_whole
from ..training.exported import weights_checkpoint
from . import restricted_pickle
from .authors_checks import check_config, check_shape, check_state, check_weights

# Their attn_type -> our memory type, position encoding, look-ahead.
ATTENTION_TYPES: Dict[int, Tuple[str, str, str]] = {
    0: ("recurrence", "transformer-xl", "incremental"),
    3: ("lookahead", "disentangled", "incremental"),
    31: ("lookahead", "transformer-xl", "incremental"),
    32: ("lookahead", "disentangled-v2", "incremental"),
    33: ("lookahead", "disentangled", "full"),
}

# Their adaptive softmax is told by both: a bias is added to the score of each word and of each cluster.
CLUSTERS = " (its adaptive softmax has biases, which fairseq's, and so the one here, has not)"
REASONS = {"cutoffs": CLUSTERS, "div_val": CLUSTERS}

# Their name of a parameter -> ours, outside of layers and in layer {i}.
SHARED = {
    "r_w_bias": "biases.content",
    "r_r_bias": "biases.position",
    "r_w_bias_future": "biases.content_right",
    "r_r_bias_future": "biases.position_right",
}
LAYER = {
    "dec_attn.q_net.weight": "attention.q_proj.weight",
    "dec_attn.kv_net.weight": "attention.kv_proj.weight",
    "dec_attn.r_net.weight": "attention.r_proj.weight",
    "dec_attn.o_net.weight": "attention.out_proj.weight",
    "dec_attn.layer_norm.weight": "attention_norm.weight",
    "dec_attn.layer_norm.bias": "attention_norm.bias",
    "pos_ff.CoreNet.0.weight": "feed_forward.fc1.weight",
    "pos_ff.CoreNet.0.bias": "feed_forward.fc1.bias",
    "pos_ff.CoreNet.3.weight": "feed_forward.fc2.weight",
    "pos_ff.CoreNet.3.bias": "feed_forward.fc2.bias",
    "pos_ff.layer_norm.weight": "feed_forward_norm.weight",
    "pos_ff.layer_norm.bias": "feed_forward_norm.bias",
}
EMBEDDING, OUTPUT, BIAS = "word_emb.emb_layers.0.weight", "crit.out_layers.0.weight", "crit.out_layers.0.bias"

# Beyond any score, yet finite: weight decay would turn an infinite bias into "not a number".
NEVER = -1e4


def read(path: str) -> Dict[str, Any]:
    """Their checkpoint, without running any code from it."""
    if not os.path.isfile(path):
        raise UsageError(f"--checkpoint {path} is no file: name one that the authors' program wrote")
    if not is_whole(path):
        raise UsageError(f"--checkpoint {path} is damaged or cut short, or no checkpoint: copy it anew")
    try:
        theirs = torch.load(path, map_location="cpu", pickle_module=restricted_pickle, weights_only=False)
    except restricted_pickle.ForbiddenName as error:
        raise UsageError(
            f"--checkpoint {path} names {error.name}, so it cannot be read without running code from it: save it anew "
            "with plain containers and tensors only"
        ) from error
    except Exception as error:  # a file of others can make the unpickler fail in any way
        raise UsageError(
            f"--checkpoint {path} cannot be read without running code from it, or is damaged: save it anew "
            "with plain containers and tensors only"
        ) from error
    for key in ("model_config", "model_state", "vocab"):
        if not isinstance(theirs, dict) or key not in theirs:
            raise UsageError(
                f"--checkpoint {path} has no {key}: it needs model_config, model_state and vocab, as the "
                "authors' trainer writes them"
            )
    config = theirs["model_config"]
    if isinstance(config, restricted_pickle.Record):
        theirs["model_config"] = vars(config)
    theirs["vocab"] = symbols(theirs["vocab"])
    return theirs


def symbols(vocab: Any) -> List[str]:
    """The symbols by id, of a list or of their ``Vocab``."""
    found = getattr(vocab, "idx2sym", None) if isinstance(vocab, restricted_pickle.Record) else vocab
    if not isinstance(found, list) or not found or not all(isinstance(symbol, str) and symbol for symbol in found):
        raise UsageError("vocab of the checkpoint is no list of symbols by id, nor a Vocab with idx2sym")
    return found


def model_flags(config: Dict[str, Any]) -> Dict[str, Any]:
    """Their constructor's arguments as fields of ``LaMemoConfig``."""
    check_config(config)
    kind = config["attn_type"]
    if kind not in ATTENTION_TYPES:
        known = ", ".join(str(number) for number in ATTENTION_TYPES)
        raise UsageError(f"attn_type {kind} of the checkpoint has no equal here: importable are {known}")
    for name, usual in (("tie_weight", True), ("div_val", 1), ("ext_len", 0), ("cutoffs", [])):
        if config.get(name, usual) != usual:
            raise UsageError(
                f"{name} {config[name]} of the checkpoint has no equal here{REASONS.get(name, '')}: importable is "
                f"{name} {usual}"
            )
    if config.get("d_embed") not in (None, config["d_model"]):
        raise UsageError(
            f"d_embed {config['d_embed']} of the checkpoint differs from its d_model {config['d_model']}: "
            "importable are models whose embeddings are as wide as their states"
        )
    memory_type, encoding, look_ahead = ATTENTION_TYPES[kind]
    clamp = config.get("clamp_len", -1)
    return {
        "memory_type": memory_type,
        "position_encoding": encoding,
        "look_ahead": look_ahead,
        "mem_len": config["mem_len"],
        "clamp_len": clamp if clamp > 0 else -1,
        "same_length": config.get("same_length", False),
        "decoder_layers": config["n_layer"],
        "decoder_embed_dim": config["d_model"],
        "decoder_ffn_embed_dim": config["d_inner"],
        "decoder_attention_heads": config["n_head"],
        "decoder_head_dim": config["d_head"],
        "decoder_normalize_before": config.get("pre_lnorm", False),
        "dropout": config["dropout"],
        "attention_dropout": config["dropatt"],
    }


def make_dictionary(vocab: List[str]) -> Tuple[Dictionary, List[int]]:
    """Fairseq's dictionary of their symbols, and the new id of each of theirs."""
    dictionary = Dictionary()
    names = ["</s>" if symbol == "<eos>" else symbol for symbol in vocab]
    for symbol in names:
        if symbol == "<pad>" or "\n" in symbol or "\r" in symbol or names.count(symbol) > 1:
            raise UsageError(
                f"vocab of the checkpoint holds {symbol!r}, which fairseq's dict.txt cannot hold (it keeps "
                "<pad> for itself, a line per symbol, each once): rename it"
            )
    return dictionary, [dictionary.add_symbol(symbol) for symbol in names]


def convert(state: Dict[str, Tensor], layers: int, ids: List[int], size: int) -> Dict[str, Tensor]:
    """Their parameters under our names, for a dictionary of ``size`` symbols.

    Args:
        state: their ``model_state`` (or gradients, under the same names).
        layers: L.
        ids: new id of each of their symbols.
        size: V.
    """
    check_state(state)
    missing = [name for name in (EMBEDDING, BIAS) if name not in state]
    if missing:
        raise UsageError(f"model_state of the checkpoint lacks {missing[0]}: is it complete?")
    if OUTPUT in state and not torch.equal(state[OUTPUT], state[EMBEDDING]):
        raise UsageError(f"{OUTPUT} of the checkpoint differs from {EMBEDDING}: importable are tied weights")
    embedding, bias = state[EMBEDDING], state[BIAS]
    width = embedding.size(1) if embedding.dim() == 2 else 0
    check_shape(EMBEDDING, embedding, (len(ids), width))
    check_shape(BIAS, bias, (len(ids),))
    rows, biases = embedding.new_zeros(size, embedding.size(1)), bias.new_full((size,), NEVER)
    rows[ids], biases[ids] = embedding, bias
    ours = {"decoder.embed_tokens.weight": rows, "decoder.output_bias": biases}
    for theirs, name in SHARED.items():
        if theirs in state:
            ours[f"decoder.{name}"] = state[theirs]
    for layer in range(layers):
        prefix = f"layers.{layer}."
        rest = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        if "dec_attn.qkv_net.weight" in rest:  # their Transformer-XL projects all three at once
            together = rest["dec_attn.qkv_net.weight"]
            if together.dim() != 2 or together.size(0) % 3:
                raise UsageError(f"{prefix}dec_attn.qkv_net.weight of the checkpoint is no q, k and v on each other")
            q, k, v = together.chunk(3)
            rest.update({"dec_attn.q_net.weight": q, "dec_attn.kv_net.weight": torch.cat([k, v])})
        for theirs, name in LAYER.items():
            if theirs not in rest:
                raise UsageError(f"model_state of the checkpoint lacks {prefix}{theirs}: is it complete?")
            ours[f"decoder.layers.{layer}.{name}"] = rest[theirs].clone()
    return ours


def import_checkpoint(path: str, save_dir: str) -> str:
    """Writes ``checkpoint.pt`` and ``dict.txt`` into ``save_dir``; returns the checkpoint's path."""
    theirs = read(path)
    flags = model_flags(theirs["model_config"])
    dictionary, ids = make_dictionary(theirs["vocab"])
    weights = convert(theirs["model_state"], flags["decoder_layers"], ids, len(dictionary))
    check_weights(weights, flags, dictionary, theirs["model_config"]["tgt_len"])
    os.makedirs(save_dir, exist_ok=True)
    dictionary.save(os.path.join(save_dir, "dict.txt"))
    checkpoint = weights_checkpoint(fairseq_config(flags, theirs["model_config"]["tgt_len"], save_dir), weights, {})
    target = os.path.join(save_dir, "checkpoint.pt")
    torch.save(checkpoint, target)
    return target


def fairseq_config(flags: Dict[str, Any], tokens_per_sample: int, data: str) -> Dict[Any, Any]:
    """The configuration that ``fairseq-train`` would have written for these flags."""
    words = [os.path.abspath(data), "--task", "memory_language_modeling", "--arch", "lamemo_lm"]
    words += ["--tokens-per-sample", str(tokens_per_sample), "--optimizer", "adam", "--batch-size", "1"]
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        words += ([flag] if value else []) if isinstance(value, bool) else [flag, str(value)]
    arguments = options.parse_args_and_arch(options.get_training_parser(), input_args=words)
    config = OmegaConf.to_container(convert_namespace_to_omegaconf(arguments), resolve=True, enum_to_str=True)
    assert isinstance(config, dict)
    return config
