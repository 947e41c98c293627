"""``lamemo generate``: plain text in, plain text out."""

import argparse
import json
import os
import random
import sys
from typing import Any, Dict, List, Tuple

from ..core.errors import UsageError
from .text_flags import add_text_flags, text_options

HELP = "Continues a text: plain text in and out, with a trained model."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags; those of the search have fairseq-generate's names, which errors use too."""
    add_model(parser)
    parser.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="what to continue; repeatable")
    parser.add_argument("--sampling", action="store_true", help="draw tokens, in place of taking the likeliest text")
    parser.add_argument("--sampling-topk", "--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    parser.add_argument("--sampling-topp", "--top-p", type=float, metavar="P", help="... from those that sum to P")
    parser.add_argument("--temperature", type=float, metavar="T", help="divides scores: above 1 is more varied")
    parser.add_argument("--beam", type=int, default=1, metavar="N", help="beams, or texts to draw (default: 1, greedy)")
    parser.add_argument("--nbest", type=int, metavar="N", help="texts to show of each prompt (default: 1; drawn: all)")
    parser.add_argument("--max-len-b", "--max-tokens", type=int, default=200, metavar="N", help="new tokens (200)")
    parser.add_argument("--no-repeat-ngram-size", type=int, metavar="N", help="no run of N tokens comes twice")
    parser.add_argument("--stop-at-eos", action="store_true", help="end where the line ends")
    parser.add_argument("--write-unk", action="store_true", help="<unk> may be written")
    parser.add_argument("--seed", type=int, metavar="N", help="draw the same again (default: another text each time)")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each text, with its scores and seed")


def add_model(parser: argparse.ArgumentParser) -> None:
    """A trained model, and how text becomes its tokens: what :func:`load` reads."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a checkpoint, a directory with one, or OWNER/NAME on the hub; A:B is an ensemble",
    )
    parser.add_argument(
        "--data", metavar="DIR", help="data-bin with dict.txt (default: MODEL's folder, or what it read)"
    )
    add_text_flags(parser)
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")


def run(arguments: argparse.Namespace) -> int:
    """Prints the continuations, each with its prompt."""
    lm = load(arguments)
    seed = arguments.seed
    if seed is not None and not arguments.sampling:
        raise UsageError(f"--seed {seed} has no effect without --sampling: add that, or leave it out")
    if seed is None and arguments.sampling:
        seed = random.SystemRandom().getrandbits(32)
    prompts = [lm.encode(prompt) for prompt in arguments.prompt]
    found = lm.generate(prompts, seed=seed, **search_flags(arguments))
    shown = 0
    for prompt, tokens, hypotheses in zip(arguments.prompt, prompts, found):
        for hypothesis in hypotheses:
            text = lm.decode(hypothesis["tokens"])
            if arguments.json:
                print(json.dumps(as_record(prompt, text, hypothesis, len(tokens), seed), ensure_ascii=False))
            else:
                print(f"---\n{text}" if shown > 0 else text)
            shown += 1
    return 0


def as_record(prompt: str, text: str, hypothesis: Dict[str, Any], given: int, seed: Any) -> Dict[str, Any]:
    """What ``--json`` says of a text whose first ``given`` tokens are the prompt's. Log-probabilities are in nats."""
    scores = hypothesis["positional_scores"]
    return {
        "prompt": prompt,
        "text": text,
        "tokens": len(scores) - given,
        "log_probability": float(scores[given:].sum()),
        "prompt_tokens": given,
        "prompt_log_probability": float(scores[:given].sum()),
        "seed": seed,
    }


def search_flags(arguments: argparse.Namespace) -> Dict[str, Any]:
    """The flags of generation that were given, by fairseq's names."""
    names = "sampling_topk sampling_topp temperature no_repeat_ngram_size".split()
    flags = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    for name in ("stop_at_eos", "write_unk"):
        flags.update({name: True} if getattr(arguments, name) else {})
    nbest = arguments.nbest
    if nbest is None:
        nbest = arguments.beam if arguments.sampling else 1
    return {
        **flags,
        "sampling": arguments.sampling,
        "beam": arguments.beam,
        "nbest": nbest,
        "max_len_b": arguments.max_len_b,
    }


def load(arguments: argparse.Namespace) -> Any:
    """The model, with its dictionary and the way from text to tokens."""
    import torch

    from lamemo_fairseq import LaMemoLanguageModel

    folder, names = checkpoint_of(arguments.model)
    data = arguments.data or data_of(folder, names)
    if not os.path.isfile(os.path.join(data, "dict.txt")):
        raise UsageError(f"--data {data} has no dict.txt: name the data-bin of the model's training")
    form = text_options(arguments, data)
    if not form:
        print("text is cut at white space: the data does not say otherwise (see --bpe, --moses)", file=sys.stderr)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"--device {arguments.device} is not there: choose cpu ({str(error).splitlines()[0]})"
        ) from None
    return LaMemoLanguageModel.from_pretrained(folder, names, data_name_or_path=data, **form).to(device)


def checkpoint_of(model: str) -> Tuple[str, str]:
    """Folder of a checkpoint, and its name there; of an ensemble, their names from the folder of the first."""
    from ..generation.hub import local_directory
    from ..generation.python_api import CHECKPOINTS

    paths: List[str] = []
    for part in model.split(os.pathsep):
        part = local_directory(part)
        if os.path.isdir(part):
            here = [name for name in CHECKPOINTS if os.path.isfile(os.path.join(part, name))]
            if not here:
                raise UsageError(f"MODEL {part} has none of {', '.join(CHECKPOINTS)}: name a checkpoint")
            part = os.path.join(part, here[0])
        if not os.path.isfile(part):
            raise UsageError(f"MODEL {part} is no file: name a checkpoint, or a directory with one")
        paths.append(os.path.abspath(part))
    folder = os.path.dirname(paths[0])
    return folder, os.pathsep.join(os.path.relpath(path, folder) for path in paths)


def data_of(folder: str, names: str) -> str:
    """The data directory of a checkpoint: its own folder, or the one that it was trained on."""
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu

    if os.path.isfile(os.path.join(folder, "dict.txt")):
        return folder
    first = os.path.join(folder, names.split(os.pathsep)[0])
    trained = load_checkpoint_to_cpu(first)["cfg"]["task"].get("data") or "nowhere"
    if not os.path.isfile(os.path.join(trained, "dict.txt")):
        raise UsageError(f"--data is missing: {folder} has no dict.txt, and {trained} (as in training) has none either")
    return str(trained)
