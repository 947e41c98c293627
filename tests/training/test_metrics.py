"""What a run tells about itself, segments of varying length, and activations that are computed twice."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from commands import ROOT, load, preprocess, train
from test_precision import small_training

from lamemo_fairseq.data.layout import Layout
from lamemo_fairseq.data.segments import Segments
from lamemo_fairseq.data.varied_layout import varied
from lamemo_fairseq.plugin.config import LaMemoConfig
from lamemo_fairseq.plugin.presets import PRESETS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return preprocess(tmp_path_factory.mktemp("monitor"), 500)


def test_numbers_reach_log_tensorboard_and_csv(data, tmp_path):
    board, table = tmp_path / "board", tmp_path / "log.csv"
    flags = ["--tensorboard-logdir", board, "--csv-log", table, "--validate-interval-updates", 4]
    output = train(data, tmp_path / "run", *flags, "--max-update", 6, disable_validation=False)[0].succeed()
    lines = [json.loads(line) for line in re.findall(r"train_inner[^{]*(\{.*\})", output)]
    for line in lines:
        assert {"wps", "gnorm", "memory_mib", "peak_mib"} <= line.keys()
    assert "alpha" not in lines[0], "nothing is looked back at by the first segment"
    assert all(0 < float(line["alpha"]) < 1 for line in lines[1:])
    memory = load(tmp_path / "run" / "checkpoint_last.pt")["extra_state"]["train_iterator"]["streams"]["memory"]
    held = sum(tensor.numel() * tensor.element_size() for tensor in memory["tensors"].values()) / 2**20
    assert float(lines[-1]["memory_mib"]) == pytest.approx(held, abs=0.006)  # two digits

    events = b"".join(path.read_bytes() for path in board.rglob("events*"))
    for name in (b"alpha", b"gnorm", b"wps", b"memory_mib", b"peak_mib"):
        assert name in events

    rows = list(csv.DictReader(table.open()))
    assert [(row["split"], row["num_updates"]) for row in rows] == [
        *([("train", str(n)) for n in range(1, 5)] + [("valid", "4")]),
        *([("train", str(n)) for n in range(5, 7)] + [("valid", "6")]),
    ]
    for row, line in zip([row for row in rows if row["split"] == "train"], lines):
        assert float(row["loss"]) == pytest.approx(float(line["loss"]), abs=1e-3)
        assert float(row["bits_per_token"]) == pytest.approx(float(row["loss"]), abs=1e-3) and row["bpc"] == ""
        assert float(row["alpha"] or 0) == pytest.approx(float(line.get("alpha", 0)), abs=1e-4)


def test_alpha_is_the_mean_over_all_memory(data):
    """Against the alphas that the decoder returns, over micro-batches with different memories."""
    task, model, criterion, optimizer, batches = small_training(data)
    model.float()
    expected, sums = [], [0.0, 0]
    for number, batch in enumerate(batches[:3]):
        _, _, output = task.train_step(batch, model, criterion, optimizer, number)
        expected += [alpha.flatten() for left in task.training_memory.held() for alpha in left.alphas]
        sums = [sums[0] + float(output["alpha_sum"]), sums[1] + output["alpha_count"]]
    assert sums[0] / sums[1] == pytest.approx(float(torch.cat(expected).mean()), rel=1e-5)


def test_sizes_in_the_readme():
    """The arithmetic of examples/distributed, against tensors of the preset's shapes."""
    page = (ROOT / "examples" / "distributed" / "README.md").read_text()
    cfg = LaMemoConfig(**PRESETS["lamemo_lm_wt103_base"].model)
    for dtype in (torch.float32, torch.float16):
        like = torch.zeros((), dtype=dtype)
        M, D, L, H, d, w = cfg.mem_len, cfg.decoder_embed_dim, 16, 10, 41, like.element_size()
        size = cfg.model(1, 1).make_memory().full_bytes(1, like)
        assert size == M * D * w + (L - 1) * H * M * (d * w + 4)
        assert f"{size:,} B" in page
    for gpus, segments in ((8, "10,753"), (64, "1,345"), (1024, "85")):
        assert f"{Layout.even(103_227_021, gpus * 8, 150).segments:,}" == segments and f"| {segments} |" in page


def test_varied_lengths():
    """95 % around T, 5 % around T / 2, deviation 5, never longer than T + 15; the same for the same seed and epoch."""
    layout = varied(total=4_000_000, streams=4, tokens=100, seed=1, epoch=1)
    lengths = np.diff(layout.boundaries)
    assert lengths.max() <= 115 and lengths.min() >= 5
    short = lengths < 75
    # 10,000 segments: three standard errors are 0.7 % of them, and 0.2 tokens of the mean; int() takes off 0.5.
    assert short.mean() == pytest.approx(0.05, abs=0.007)
    assert lengths[~short].mean() == pytest.approx(99.5, abs=0.2) and lengths[~short].std() == pytest.approx(5, abs=0.2)
    assert lengths[short].mean() == pytest.approx(49.5, abs=0.8)
    assert layout == varied(4_000_000, 4, 100, 1, 1)
    assert list(layout.boundaries) != list(varied(4_000_000, 4, 100, 1, 2).boundaries)
    assert list(layout.boundaries) != list(varied(4_000_000, 4, 100, 2, 1).boundaries)


def test_varied_segments_hold_every_token_once(data):
    task, *_ = small_training(data)
    text = task.dataset("train")
    whole = text.span(0, text.total)
    layout = varied(text.total, 3, 16, seed=5, epoch=2, offset=7)
    segments = Segments(text, layout, pad=1, eos=2)
    rows = [torch.cat([segments[s * 3 + row]["target"] for s in range(layout.segments)]) for row in range(3)]
    assert torch.equal(torch.cat(rows), whole.roll(-7))
    assert isinstance(layout, Layout) and layout.longest <= layout.boundaries[-1]


@pytest.mark.parametrize("flags", [[], ["--memory-type", "recurrence"]], ids=["lookahead", "recurrence"])
def test_checkpointed_activations(data, flags):
    """The same gradients, bit for bit, dropout included, and less that is kept for the backward pass."""
    results = []
    for more in ([], ["--checkpoint-activations"]):
        flags_here = ["--dropout", "0.1", "--attention-dropout", "0.1", "--decoder-layers", "6", *flags, *more]
        task, model, criterion, _, batches = small_training(data, *flags_here)
        model.float().train()
        memory, kept = task.training_memory, {}

        def pack(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(3)
        for batch in batches[:3]:
            kept.clear()
            memory.begin()
            sample = {**batch, "net_input": {**batch["net_input"], "store": memory}}
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss, _, _ = criterion(model, sample)
            loss.backward()
            memory.commit()
        results.append(
            ([p.grad for p in model.parameters()], sum(kept.values()), memory.committed[model.decoder].state)
        )
    (plain, plain_bytes, state), (checkpointed, checkpointed_bytes, other) = results
    assert all(torch.equal(one, two) for one, two in zip(plain, checkpointed))
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in state.tensors.items())
    assert checkpointed_bytes < 0.6 * plain_bytes
