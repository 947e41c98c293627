"""Checks of generation's flags, each an error of one line.

Every field of fairseq's ``GenerationConfig`` is of one kind: it has an effect here (``USED``), it changes nothing by
fairseq's own rules (``INERT``), or giving it is an error (all others, ``REFUSED`` with a reason).
"""

import math
from typing import Any, Sequence

import torch
from fairseq.dataclass.configs import GenerationConfig

from ..core.errors import UsageError
from ..core.free_memory import free_bytes

USED = frozenset(
    "beam nbest max_len_a max_len_b min_len unnormalized lenpen unkpen prefix_size no_repeat_ngram_size sampling "
    "sampling_topk sampling_topp temperature diverse_beam_groups diverse_beam_strength diversity_rate "
    "no_seed_provided".split()
)
INERT = frozenset("no_early_stop no_beamable_mm sacrebleu".split())
REFUSED = {
    "match_source_len": "a text has no source: choose --max-len-b",
    "score_reference": "fairseq-eval-lm scores a text",
    "constraints": "constrained search would ignore the prompt: leave it out",
    "lm_path": "name both models as an ensemble: --path A:B",
    "replace_unk": "a text has no source to copy words from: leave it out",
    "print_alignment": "a text has no source to be aligned with: leave it out",
    "retain_dropout": "generation has no dropout: leave it out",
}

#: by what a search is chosen; they exclude each other
SEARCHES = ("--sampling", "--diverse-beam-groups", "--diversity-rate")

# Scores are divided by the length to this power, which must stay a number for any length.
MAX_LENPEN = 30

# What fairseq's loop holds per token of a hypothesis: tokens and scores, and copies of both while they are reordered.
BYTES_PER_TOKEN = 24


def check_generation(args: Any, models: Sequence[Any], write_unk: bool = False) -> None:
    """Raises ``UsageError`` where fairseq's flags of generation make no search, alone, together or for the models."""
    symbols = len(models[0].decoder.dictionary)
    check_unused(args)
    check_numbers(args)
    check_lengths(args)
    check_sampling(args, symbols)
    check_beams(args, symbols)
    check_diversity(args)
    if args.unkpen != 0 and not write_unk:
        raise UsageError(f"--unkpen {args.unkpen:g} has no effect without --write-unk: leave it out, or add that")
    check_ensemble(models)


def check_unused(args: Any) -> None:
    """Flags of fairseq that this task does nothing with."""
    for name, field in GenerationConfig.__dataclass_fields__.items():
        if name in USED or name in INERT or name.startswith("_"):
            continue
        if getattr(args, name, field.default) != field.default:
            reason = REFUSED.get(name, "it has no effect: leave it out")
            raise UsageError(f"--{name.replace('_', '-')} is not for this task: {reason}")


def check_numbers(args: Any) -> None:
    """Numbers that are none."""
    for name in ("max_len_a", "lenpen", "unkpen", "temperature", "diverse_beam_strength", "diversity_rate"):
        value = getattr(args, name)
        if not math.isfinite(value):
            raise UsageError(f"--{name.replace('_', '-')} {value:g} is no finite number: choose one, or leave it out")
    if abs(args.lenpen) > MAX_LENPEN:
        raise UsageError(f"--lenpen {args.lenpen:g} is beyond {MAX_LENPEN}, and lengths to that power: choose e.g. 1")
    if args.temperature <= 0:
        raise UsageError(f"--temperature {args.temperature:g} is not above 0: choose e.g. 0.9, or --beam 1 for greedy")
    if args.no_repeat_ngram_size < 0:
        raise UsageError(
            f"--no-repeat-ngram-size {args.no_repeat_ngram_size} is no length: choose 1 or more, or 0 for no limit"
        )


def check_lengths(args: Any) -> None:
    """How long texts become."""
    if args.max_len_a < 0:
        raise UsageError(f"--max-len-a {args.max_len_a:g} is negative: choose 0 or more")
    if args.max_len_b < 0 or args.max_len_a + args.max_len_b < 1:
        raise UsageError(f"--max-len-b {args.max_len_b} leaves no token to write: choose 1 or more new tokens")
    if args.min_len < 0:
        raise UsageError(f"--min-len {args.min_len} is negative: choose 1 or more")
    if args.max_len_a == 0 and args.min_len > args.max_len_b:
        raise UsageError(f"--min-len {args.min_len} is more than --max-len-b {args.max_len_b}: lower it")


def check_beams(args: Any, symbols: int) -> None:
    """How many hypotheses there are, and how many are shown."""
    if args.beam < 1:
        raise UsageError(f"--beam {args.beam} searches nothing: choose 1 or more")
    if args.beam >= symbols:
        raise UsageError(f"--beam {args.beam} is not below the dictionary's size, {symbols}: choose fewer")
    if not 1 <= args.nbest <= args.beam:
        raise UsageError(f"--beam {args.beam} with --nbest {args.nbest}: show 1 text or more, and at most all beams")
    if args.sampling and args.nbest != args.beam:
        raise UsageError(different_beams(args.nbest, args.beam))


def different_beams(nbest: int, beam: int) -> str:
    """What is said of sampling that would not show all it draws."""
    return (
        f"--nbest {nbest} with --beam {beam}: --sampling draws as many texts as there are beams and shows them all, so "
        "choose equal numbers"
    )


def check_sampling(args: Any, symbols: int) -> None:
    """Flags of sampling. Fairseq's -1 means: not given."""
    if args.sampling_topp != -1 and not 0 < args.sampling_topp <= 1:
        raise UsageError(f"--sampling-topp {args.sampling_topp:g} is not in (0, 1]: choose e.g. 0.9")
    if args.sampling_topk != -1 and not 1 <= args.sampling_topk <= symbols:
        raise UsageError(f"--sampling-topk {args.sampling_topk} is not in 1 to {symbols}, the dictionary's size")
    if args.sampling_topk != -1 and args.sampling_topp != -1:
        raise UsageError("--sampling-topk and --sampling-topp: fairseq would use the latter alone, so choose one")
    if not args.sampling and (args.sampling_topk != -1 or args.sampling_topp != -1):
        raise UsageError("--sampling-topk and --sampling-topp choose what is sampled: add --sampling")


def check_diversity(args: Any) -> None:
    """Flags of diverse beam search. Fairseq's -1 means: not given."""
    groups, strength = args.diverse_beam_groups, args.diverse_beam_strength
    if groups != -1 and not 1 <= groups <= args.beam:
        raise UsageError(f"--diverse-beam-groups {groups} is not in 1 to --beam {args.beam}: choose fewer")
    if groups != -1 and args.beam % groups:
        raise UsageError(f"--beam {args.beam} is no multiple of --diverse-beam-groups {groups}: choose one")
    if strength < 0:
        raise UsageError(f"--diverse-beam-strength {strength:g} is negative: choose 0 or more")
    if groups == -1 and strength != GenerationConfig.diverse_beam_strength:
        raise UsageError(f"--diverse-beam-strength {strength:g} has no effect without --diverse-beam-groups: add that")
    if args.diversity_rate != -1 and args.diversity_rate < 0:
        raise UsageError(f"--diversity-rate {args.diversity_rate:g} is negative: choose 0 or more")
    chosen = [name for name, given in zip(SEARCHES, (args.sampling, groups != -1, args.diversity_rate != -1)) if given]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} are different searches: choose one")


def check_ensemble(models: Sequence[Any]) -> None:
    """Models that are averaged."""
    first = models[0].decoder
    for model in models[1:]:
        if model.decoder.dictionary != first.dictionary:
            raise UsageError("the models of the ensemble have different dictionaries: name models of one dictionary")
        if model.decoder.segment_length != first.segment_length:
            raise UsageError("the models of the ensemble have different --tokens-per-sample: build them with one task")


def check_memory(steps: int, new: int, prompts: int, beams: int, device: torch.device) -> None:
    """Raises ``UsageError`` where texts of ``new`` tokens, written in ``steps``, would not fit into free memory."""
    needed, free = steps * prompts * beams * BYTES_PER_TOKEN, free_bytes(device)
    if needed > free:
        raise UsageError(
            f"--max-len-b (and --max-len-a) ask for {new} new tokens: {prompts} prompts with --beam {beams} would "
            f"hold {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free on {device}; lower one of them, or "
            "--batch-size"
        )
