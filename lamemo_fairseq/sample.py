"""What a checkpoint says about itself: its configuration, and text that it writes."""

from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary


def load(checkpoint: Path) -> Tuple[Any, Any, Dictionary]:
    """(model in evaluation mode, configuration, dictionary) of a checkpoint."""
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    return models[0].eval(), cfg, task.target_dictionary


def configuration(checkpoint: Path) -> List[Tuple[str, str]]:
    """(flag, value) of the model, the task, the criterion and the optimization."""
    _, cfg, _ = load(checkpoint)
    found: List[Tuple[str, str]] = []
    for group in ("model", "task", "criterion", "optimization", "optimizer", "lr_scheduler"):
        values: Dict[str, Any] = dict(cfg[group])
        found += [(f"{group}.{name}", str(value)) for name, value in sorted(values.items())]
    return found


def sample(checkpoint: Path, tokens: int, seed: int) -> str:
    """Text drawn from a checkpoint at temperature 1; characters are shown as text, words joined by blanks."""
    model, _, dictionary = load(checkpoint)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((1, 1), dictionary.eos())
    state: Dict[str, Any] = {}
    with torch.no_grad():
        for _ in range(tokens):
            scores = model.decoder(ids, incremental_state=state)
            probabilities = model.get_normalized_probs(scores, log_probs=False)[0, -1]
            probabilities[dictionary.pad()] = 0
            ids = torch.cat([ids, torch.multinomial(probabilities, 1, generator=generator)[None]], dim=1)
    symbols = [dictionary[int(token)] for token in ids[0, 1:]]
    characters = all(len(s) == 1 or s.startswith("\\u") for s in dictionary.symbols[dictionary.nspecial :])
    shown = {"_": " "} if characters else {}
    shown[dictionary[dictionary.eos()]] = "\n"
    return ("" if characters else " ").join(shown.get(symbol, symbol) for symbol in symbols)
