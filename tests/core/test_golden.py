"""The authors' numbers, through the importer: losses, gradients, and decoding token by token.

Tolerances are those of tests/golden/README.md: the authors add 1e-6 to the denominator of alpha and take
log-sum-exps in single precision.
"""

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from reference_authors import GOLDEN, golden_names

import lamemo_fairseq  # noqa: F401
from lamemo_fairseq.data.memory_store import MemoryStore
from lamemo_fairseq.interop.authors import convert, import_checkpoint, make_dictionary

LOSS = {torch.float64: 5e-5, torch.float32: 2e-4}


def load(name: str, folder, dtype: torch.dtype):
    """(model, tokens under fairseq's ids, recorded arrays, their checkpoint, new ids)."""
    path = import_checkpoint(str(GOLDEN / f"{name}.pt"), str(folder))
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([path])
    theirs = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    _, ids = make_dictionary(theirs["vocab"])
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        recorded = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    tokens = torch.tensor(ids)[recorded["tokens"].long()]
    return model.to(dtype).eval(), tokens, recorded, theirs, ids


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", golden_names())
def test_losses_and_gradients(name: str, dtype: torch.dtype, tmp_path) -> None:
    model, tokens, recorded, theirs, ids = load(name, tmp_path, dtype)
    T, store, losses = theirs["model_config"]["tgt_len"], MemoryStore("golden"), []
    segments = recorded["nll"].size(1) // T
    for number in range(segments):
        source, target = (tokens[:, number * T + shift :][:, :T] for shift in (0, 1))
        scores = model.get_normalized_probs(model(source, store=store, segment=number), True)
        loss = -scores.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        (loss.mean() / segments).backward()
        losses.append(loss.detach())
    torch.testing.assert_close(torch.cat(losses, 1).double(), recorded["nll"], rtol=0, atol=LOSS[dtype])
    expected = convert(
        {key[5:]: value for key, value in recorded.items() if key.startswith("grad.")},
        theirs["model_config"]["n_layer"],
        ids,
        model.decoder.embed_tokens.num_embeddings,
    )
    own = dict(model.named_parameters())
    known = torch.zeros(model.decoder.embed_tokens.num_embeddings, dtype=torch.bool)
    known[ids] = True
    for parameter, gradient in expected.items():
        found = own[parameter].grad
        found = torch.zeros_like(own[parameter]) if found is None else found
        if gradient.size(0) == len(known):  # rows of symbols that the authors do not have
            found, gradient = found[known], gradient[known]
        error = (found.double() - gradient).norm() / gradient.norm().clamp_min(1e-12)
        assert error < LOSS[dtype], f"{parameter}: {float(error)}"


@pytest.mark.parametrize("name", golden_names())
def test_decoding_token_by_token(name: str, tmp_path) -> None:
    model, tokens, recorded, _, _ = load(name, tmp_path, torch.float64)
    state: dict = {}
    losses = []
    with torch.no_grad():
        for end in range(1, tokens.size(1)):
            scores = model.get_normalized_probs(model.decoder(tokens[:, :end], incremental_state=state), True)
            losses.append(-scores[:, -1].gather(-1, tokens[:, end, None]))
    torch.testing.assert_close(torch.cat(losses, 1), recorded["nll"], rtol=0, atol=LOSS[torch.float64])


def test_symbols_of_fairseq_alone_are_never_predicted(tmp_path) -> None:
    model, tokens, _, _, ids = load("lamemo", tmp_path, torch.float32)
    alone = sorted(set(range(model.decoder.embed_tokens.num_embeddings)) - set(ids))
    assert len(alone) == 2  # <s> and <pad>
    probabilities = model.get_normalized_probs(model(tokens[:, :8]), False)
    assert probabilities[..., alone].eq(0).all()
