"""The criterion: the text's loss is logged alone, the memory's losses are minimised beside it."""

import json
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
from family import make, pieces, text

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.memory_store import MemoryStore
from lamemo_fairseq.plugin.criterion import MemoryCrossEntropyConfig, MemoryCrossEntropyCriterion

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
    assert MemoryCrossEntropyConfig.__dataclass_fields__.keys() == {
        *("_name", "sentence_avg", "score_after", "score_offset", "score_accuracy_only")
    }
    return MemoryCrossEntropyCriterion(Task(), sentence_avg=sentence_avg)


def samples(decoder: Any, padded: int) -> List[Dict[str, Any]]:
    """Segments of a text whose second row ends ``padded`` tokens before the last segment's end."""
    store, batches = MemoryStore("test"), []
    targets = text(2, 24, seed=1)
    targets[1, 24 - padded :] = PAD
    for k, (source, target) in enumerate(zip(pieces(text(2, 24)), pieces(targets))):
        net_input = {"prev_output_tokens": source, "store": store, "segment": k}
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


def scoring(after: str, offset: int, **flags: bool) -> MemoryCrossEntropyCriterion:
    """The criterion with a dictionary in which symbols are written as their numbers."""

    class Dictionary:
        pad = staticmethod(lambda: PAD)
        index = staticmethod(int)
        __contains__ = staticmethod(lambda symbol: symbol.isdigit())

    class Numbers:
        target_dictionary: Any = Dictionary()

    return MemoryCrossEntropyCriterion(Numbers(), sentence_avg=False, score_after=after, score_offset=offset, **flags)


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("kind", ["lookahead", "lookahead-adaptive", "compressive"])
def test_what_stands_behind_a_symbol_is_scored_alone(kind: str, offset: int) -> None:
    """Loss, its gradient's divisor and accuracy, against a loop over the targets."""
    decoder, plain = make(kind).train(), make(kind).train()
    for batch, again in zip(samples(decoder, padded=3), samples(plain, padded=3)):
        batch["target"][0, 0] = again["target"][0, 0] = 7  # at least one mark
        loss, size, log = scoring("7", offset)(decoder, batch)
        scores, extra = plain(**again["net_input"])
        log_probs = plain.get_normalized_probs((scores, None), log_probs=True)
        expected, count, right = torch.zeros(()).double(), 0, 0
        for row, targets in enumerate(again["target"].tolist()):
            for place in range(offset, len(targets)):
                if targets[place - offset] == 7 and targets[place] != PAD:
                    expected = expected - log_probs[row, place, targets[place]]
                    count += 1
                    right += int(log_probs[row, place].argmax()) == targets[place]
        assert count > 0 and (size, log["ntokens"], int(log["n_correct"])) == (count, count, right)
        torch.testing.assert_close(log["loss"], expected.detach(), rtol=1e-10, atol=1e-10)
        wanted = sum(float(value.detach()) for value in extra["losses"].values()) * count
        assert float(loss.detach() - log["loss"]) == pytest.approx(wanted, rel=1e-8, abs=1e-8)


def test_accuracy_alone_leaves_the_loss_as_it_is() -> None:
    decoders = [make("compressive").train() for _ in range(3)]
    for plain, every, answers in zip(*(samples(decoder, padded=3) for decoder in decoders)):
        expected, size, _ = criterion()(decoders[0], plain)
        loss, own_size, log = scoring("7", 1, score_accuracy_only=True)(decoders[1], every)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
        assert own_size == size == log["ntokens"]
        _, _, alone = scoring("7", 1)(decoders[2], answers)
        assert [log[name] for name in ("n_correct", "n_answers")] == [alone["n_correct"], alone["ntokens"]]


def test_an_update_without_a_scored_token_logs_nothing() -> None:
    decoder = make("lookahead").train()
    batch = samples(decoder, padded=3)[0]
    loss, size, log = scoring("500", 1)(decoder, batch)
    assert (float(loss.detach()), size) == (0.0, 0)
    loss.backward()
    MemoryCrossEntropyCriterion.reduce_metrics([log])  # which divides by nothing


def test_scoring_flags_that_do_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="--score-after x is not in the dictionary"):
        scoring("x", 1)
    with pytest.raises(UsageError, match="--score-offset 0 is too small"):
        scoring("7", 0)
    with pytest.raises(UsageError, match="--score-accuracy-only does nothing without --score-after"):
        MemoryCrossEntropyCriterion(Task(), sentence_avg=False, score_accuracy_only=True)
    with pytest.raises(UsageError, match="--score-offset 2 does nothing without --score-after"):
        MemoryCrossEntropyCriterion(Task(), sentence_avg=False, score_offset=2)


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
