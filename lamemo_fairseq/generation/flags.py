"""Fairseq's flags of generation: what cannot be, in one line each."""

from typing import Any, Sequence

from ..core.errors import UsageError


def check_generation(args: Any, models: Sequence[Any]) -> None:
    """Raises ``UsageError`` where fairseq's flags of generation contradict each other or the models."""
    if args.max_len_b < 0 or args.max_len_a < 0 or args.max_len_a + args.max_len_b < 1:
        raise UsageError(f"--max-len-b {args.max_len_b} leaves no token to write: choose 1 or more new tokens")
    if args.max_len_a == 0 and args.min_len > args.max_len_b:
        raise UsageError(f"--min-len {args.min_len} is more than --max-len-b {args.max_len_b}: lower it")
    if args.temperature <= 0:
        raise UsageError(f"--temperature {args.temperature:g} is not above 0: choose e.g. 0.9, or --beam 1 for greedy")
    if args.beam < 1 or args.nbest > args.beam:
        raise UsageError(f"--beam {args.beam} with --nbest {args.nbest}: choose at least as many beams, 1 or more")
    check_sampling(args, len(models[0].decoder.dictionary))
    for name, what in (
        ("match_source_len", "a text has no source: choose --max-len-b"),
        ("score_reference", "fairseq-eval-lm scores a text"),
        ("constraints", "constrained search would ignore the prompt: leave it out"),
        ("lm_path", "name both models as an ensemble: --path A:B"),
    ):
        if getattr(args, name):
            raise UsageError(f"--{name.replace('_', '-')} is not for this task: {what}")
    if args.diverse_beam_groups > 0 and args.beam % args.diverse_beam_groups:
        raise UsageError(
            f"--beam {args.beam} is no multiple of --diverse-beam-groups {args.diverse_beam_groups}: choose one"
        )
    first = models[0].decoder
    for model in models[1:]:
        if model.decoder.dictionary != first.dictionary:
            raise UsageError("the models of the ensemble have different dictionaries: name models of one dictionary")
        if model.decoder.segment_length != first.segment_length:
            raise UsageError("the models of the ensemble have different --tokens-per-sample: build them with one task")


def check_sampling(args: Any, symbols: int) -> None:
    """Raises ``UsageError`` where flags of sampling do not go together. Fairseq's -1 means: not given."""
    if args.sampling_topp != -1 and not 0 < args.sampling_topp <= 1:
        raise UsageError(f"--sampling-topp {args.sampling_topp:g} is not in (0, 1]: choose e.g. 0.9")
    if args.sampling_topk != -1 and not 1 <= args.sampling_topk <= symbols:
        raise UsageError(f"--sampling-topk {args.sampling_topk} is not in 1 to {symbols}, the dictionary's size")
    if args.sampling_topk != -1 and args.sampling_topp != -1:
        raise UsageError("--sampling-topk and --sampling-topp: fairseq would use the latter alone, so choose one")
    if not args.sampling and (args.sampling_topk != -1 or args.sampling_topp != -1):
        raise UsageError("--sampling-topk and --sampling-topp choose what is sampled: add --sampling")
