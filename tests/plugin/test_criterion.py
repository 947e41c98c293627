"""The criterion: the text's loss is logged alone, the memory's losses are minimised beside it."""

import json
import math
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, USER_DIR, run
from fairseq.logging import metrics
from family import make, pieces, text

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.memory_store import MemoryStore
from lamemo_fairseq.plugin.criterion import MemoryCrossEntropyConfig, MemoryCrossEntropyCriterion, check_criterion

PAD = 1
TINY = (
    "--task memory_language_modeling --arch lamemo_lm --decoder-layers 2 --decoder-embed-dim 16 "
    "--decoder-ffn-embed-dim 32 --decoder-attention-heads 2 --mem-len 12 --tokens-per-sample 16 --batch-size 4 "
    "--optimizer adam --lr 0.01 --clip-norm 0.25 --log-format json --log-interval 1 --no-epoch-checkpoints"
).split()
COMPRESSIVE = [*TINY, "--memory-type", "compressive", "--dropout", "0", "--reconstruction-weight", "0.5"]


class Task:
    """What a criterion asks of a task."""

    class target_dictionary:
        @staticmethod
        def pad() -> int:
            return PAD


def criterion(sentence_avg: bool = False) -> MemoryCrossEntropyCriterion:
    assert MemoryCrossEntropyConfig.__dataclass_fields__.keys() == {"_name", "sentence_avg"}
    return MemoryCrossEntropyCriterion(Task(), sentence_avg=sentence_avg)


def samples(decoder: Any, padded: int) -> List[Dict[str, Any]]:
    """Segments of a text whose second row ends ``padded`` tokens before the last segment's end."""
    stream, batches = MemoryStore("test"), []
    targets = text(2, 24, seed=1)
    targets[1, 24 - padded :] = PAD
    for k, (source, target) in enumerate(zip(pieces(text(2, 24)), pieces(targets))):
        net_input = {"prev_output_tokens": source, "stream": stream, "segment": k}
        batches.append({"net_input": net_input, "target": target, "ntokens": int((target != PAD).sum())})
    return batches


@pytest.mark.parametrize("kind", ["lookahead", "lookahead-adaptive", "compressive", "continuous"])
def test_the_text_is_scored_as_cross_entropy_scores_it(kind: str) -> None:
    decoder, plain, third = make(kind).train(), make(kind).train(), make(kind)
    for batch, again, once_more in zip(*(samples(each, padded=3) for each in (decoder, plain, third))):
        loss, size, log = criterion()(decoder, batch)
        scores, extra = plain(**again["net_input"])
        expected = F.nll_loss(
            scores.log_softmax(-1).flatten(0, 1), batch["target"].flatten(), reduction="sum", ignore_index=PAD
        )
        torch.testing.assert_close(log["loss"], expected, rtol=1e-10, atol=1e-10)
        assert size == log["ntokens"] == batch["ntokens"]
        # Means per token, as the memory gives them, times the tokens: as the text's loss, a sum.
        wanted = {name: float(value.detach()) * batch["ntokens"] for name, value in extra.get("losses", {}).items()}
        logged = {name: float(value) for name, value in log.items() if name.startswith("auxiliary_")}
        assert logged == pytest.approx({f"auxiliary_{name}": value for name, value in wanted.items()}, rel=1e-8)
        assert float(loss.detach() - log["loss"]) == pytest.approx(sum(wanted.values()), rel=1e-8, abs=1e-8)
        assert bool(wanted) == (kind in ("compressive", "continuous")) or batch["net_input"]["segment"] == 0
        each, _, _ = criterion()(third, once_more, reduce=False)
        torch.testing.assert_close(each.sum(), expected, rtol=1e-10, atol=1e-10)
        assert each.shape == (batch["target"].numel(),)


def test_sentence_avg_leaves_the_losses_proportions() -> None:
    """It divides by streams instead of tokens, the text's loss and the auxiliary one alike."""
    decoders = [make("compressive").train() for _ in range(2)]
    for one, other in zip(*(samples(decoder, padded=3) for decoder in decoders)):
        by_token, _, _ = criterion()(decoders[0], one)
        by_stream, size, _ = criterion(sentence_avg=True)(decoders[1], other)
        assert size == 2
        torch.testing.assert_close(by_stream, by_token, rtol=1e-12, atol=1e-12)


def test_micro_batches_weigh_an_auxiliary_loss_by_their_tokens() -> None:
    """What the trainer makes of --update-freq: the sum of the losses over the sum of the sizes."""
    decoder = make("compressive").train()
    terms, sizes, weighted = [], [], []
    for batch in samples(decoder, padded=6):
        loss, size, log = criterion()(decoder, batch)
        extra = log["auxiliary_reconstruction"] / size
        terms.append(loss - log["loss"])
        sizes.append(size)
        weighted.append(extra * size)
    assert sizes[-1] < sizes[0]
    torch.testing.assert_close(sum(terms) / sum(sizes), sum(weighted) / sum(sizes))
    decoder.zero_grad()
    (sum(terms) / sum(sizes)).backward()
    assert all(weight.grad.abs().max() > 0 for weight in decoder.memory.parameters())


def lines(output: str, of: str) -> List[Dict[str, Any]]:
    """The JSON that fairseq logged of ``train`` updates or ``valid`` passes."""
    found = re.findall(rf"\b{of}(?: \| |:)(\{{.*\}})", output)
    return [json.loads(line) for line in found]


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, str]":
    """A tiny Compressive Transformer, its output kept; saved after its first and its last update."""
    folder = tmp_path_factory.mktemp("compressive")
    done = run(
        *("train", corpus, *COMPRESSIVE, "--criterion", "memory_cross_entropy", "--update-freq", 2),
        *("--max-update", 30, "--save-interval-updates", 15, "--save-dir", folder),
    )
    return folder, done.stdout


def test_training_moves_the_compression(trained: "tuple[Path, str]") -> None:
    folder, output = trained
    logged = lines(output, "train_inner")
    reconstruction = [float(line["reconstruction"]) for line in logged]
    assert len(logged) >= 30 and min(reconstruction[-5:]) > 0
    early, late = (
        torch.load(path, weights_only=False)["model"]
        for path in sorted(folder.glob("checkpoint_*_*.pt"))[:1] + [folder / "checkpoint_last.pt"]
    )
    moved = [name for name in late if "compressions" in name and (late[name] - early[name]).abs().max() > 1e-3]
    assert len(moved) == 2  # one per layer


def test_what_is_logged_is_what_eval_lm_finds(trained: "tuple[Path, str]", corpus: Path) -> None:
    folder, output = trained
    valid = lines(output, "valid")[-1]
    assert float(valid["valid_bpc"]) == pytest.approx(float(valid["valid_loss"]), abs=2e-3)
    assert "valid_reconstruction" not in valid
    done = run(
        *("eval-lm", corpus, "--path", folder / "checkpoint_last.pt", "--gen-subset", "valid", "--batch-size", 4),
        *("--task", "memory_language_modeling", "--tokens-per-sample", 16),
    )
    found = re.search(r"Loss \(base 2\): ([\d.]+)", done.stdout)
    assert found and float(found.group(1)) == pytest.approx(float(valid["valid_loss"]), abs=2e-3)


def test_a_criterion_that_leaves_a_loss_out_is_refused(corpus: Path, tmp_path: Path) -> None:
    done = run("train", corpus, *COMPRESSIVE, "--max-update", 1, "--save-dir", tmp_path, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert (
        "error: --criterion cross_entropy leaves out the reconstruction loss of --memory-type compressive"
        in done.stdout
    )


# Four processes of fairseq, two of them at a time.
@pytest.mark.slow
def test_two_ranks_train_as_one(corpus: Path, tmp_path: Path) -> None:
    common = [
        corpus,
        *COMPRESSIVE,
        "--criterion",
        "memory_cross_entropy",
        "--max-update",
        12,
        "--no-save-optimizer-state",
    ]
    run("train", *common, "--save-dir", tmp_path / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "fairseq_cli.train", *map(str, common), "--user-dir", USER_DIR]
    words += (
        "--batch-size 2 --distributed-world-size 2 --distributed-no-spawn --distributed-backend gloo "
        f"--ddp-backend legacy_ddp --distributed-init-method tcp://127.0.0.1:{port}"
    ).split()
    ranks = [
        subprocess.Popen(
            [*words, "--distributed-rank", str(rank), "--save-dir", str(tmp_path / "two")],
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), outputs[0][-3000:]
    assert "training on 2 devices" in outputs[0]
    one, two = (
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=False)["model"] for name in ("one", "two")
    )
    for name, weight in one.items():
        # Adam divides by the gradient's size, so that what rounding did to a tiny gradient shows in full.
        torch.testing.assert_close(two[name], weight, rtol=0.0, atol=2e-3)


class Model(torch.nn.Module):
    """Answers with given log-probabilities, and with losses where it is given some."""

    def __init__(self, log_probs: torch.Tensor, **losses: float) -> None:
        super().__init__()
        self.log_probs = torch.nn.Parameter(log_probs)
        self.losses = {name: torch.nn.Parameter(torch.tensor(value).double()) for name, value in losses.items()}

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> Any:
        return self.log_probs, {"losses": self.losses} if self.losses else {}


TARGETS = torch.tensor([[5, 6, 7], [8, 9, PAD]])
SAMPLE = {"net_input": {"tokens": torch.zeros(2, 3).long()}, "target": TARGETS, "ntokens": 5}
LOG_PROBS = -torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], dtype=torch.float64)


@pytest.mark.parametrize("sentence_avg", [False, True])
def test_all_that_is_returned(sentence_avg: bool) -> None:
    """By hand: the text's loss is 31 nats of 5 targets; 0.5 and 2 nats per token stand beside it."""
    loss, size, log = criterion(sentence_avg)(Model(LOG_PROBS, kl=0.5, far=2.0), SAMPLE)
    assert size == (2 if sentence_avg else 5)
    assert loss.requires_grad and float(loss.detach()) == 31 + 5 * 2.5
    assert {name: float(value) for name, value in log.items()} == {
        **{"loss": 31, "ntokens": 5, "nsentences": 2, "sample_size": size},
        **{"auxiliary_kl": 2.5, "auxiliary_far": 10},
    }
    assert not any(value.requires_grad for value in log.values() if isinstance(value, torch.Tensor))


def test_losses_of_each_token() -> None:
    for model in (Model(LOG_PROBS), Model(LOG_PROBS, kl=0.5)):
        each, size, log = criterion()(model, SAMPLE, reduce=False)
        assert each.tolist() == [1, 2, 4, 8, 16, 0] and size == 5
        assert set(log) == {"loss", "ntokens", "nsentences", "sample_size"} and float(log["loss"]) == 31


def test_no_gradient_of_what_is_not_scored() -> None:
    model = Model(LOG_PROBS.clone(), kl=0.5)
    criterion()(model, SAMPLE)[0].backward()
    assert model.log_probs.grad is not None and model.log_probs.grad.tolist() == [[-1, -1, -1], [-1, -1, 0]]
    assert float(model.losses["kl"].grad) == 5


LOGS = [
    {"loss": 6.0, "ntokens": 3, "nsentences": 2, "sample_size": 3, "auxiliary_kl": 1.5},
    {"loss": 4.0, "ntokens": 2, "nsentences": 2, "sample_size": 2, "auxiliary_kl": 3.0, "auxiliary_far": 1.0},
    {"loss": 0.0, "sample_size": 0},  # of a rank that ran out of batches
]


def test_what_is_logged_is_divided_by_all_tokens() -> None:
    with metrics.aggregate(new_root=True) as found:
        MemoryCrossEntropyCriterion.reduce_metrics(LOGS)
    values = found.get_smoothed_values()
    assert values["loss"] == pytest.approx(10 / 5 / math.log(2), abs=1e-3)  # in bits, as cross_entropy's
    assert values["kl"] == 4.5 / 5 and values["far"] == 1 / 5
    assert [name for name in values if name.startswith("auxiliary")] == []
    assert found["kl"].count == 5 and found["far"].count == 5  # weighed by tokens where passes are averaged
    assert list(values).index("far") < list(values).index("kl")  # in one order on every rank
    with metrics.aggregate(new_root=True) as found:
        MemoryCrossEntropyCriterion.reduce_metrics([{"loss": 1.0, "ntokens": 7, "sample_size": 7, "auxiliary_kl": 1.0}])
    assert found.get_smoothed_values()["kl"] == 0.142857  # six digits


def test_the_criterion_must_leave_no_loss_out() -> None:
    check_criterion("memory_cross_entropy", "compressive", ["reconstruction"])
    check_criterion("cross_entropy", "lookahead", [])
    for name, losses, line in (
        ("cross_entropy", ["kl"], "--criterion cross_entropy leaves out the kl loss of --memory-type m: choose"),
        ("cross_entropy", ["kl", "far"], "--criterion cross_entropy leaves out the kl and far loss of --memory-type m"),
        ("adaptive_loss", [], "--criterion adaptive_loss leaves out a word of each cluster: choose --criterion memory"),
        ("adaptive_loss", ["kl"], "--criterion adaptive_loss leaves out a word of each cluster"),
    ):
        with pytest.raises(UsageError) as error:
            check_criterion(name, "m", losses)
        assert str(error.value).startswith(line) and str(error.value).endswith("--criterion memory_cross_entropy")
