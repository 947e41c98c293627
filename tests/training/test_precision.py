"""Half precision: what stays float32, what happens after an overflow, and how far the losses are from float32's."""

import re

import pytest
import torch
from commands import PLUGIN, Command, assert_same_training, load, losses, preprocess, train
from conftest import TINY
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim import FP16Optimizer
from fairseq.utils import set_torch_seed

from lamemo_fairseq.core.memory import MemoryState
from lamemo_fairseq.data.memory_store import MemoryStore
from lamemo_fairseq.training.train_step import TrainingMemory

UPDATES = 60
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and there is none")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return preprocess(tmp_path_factory.mktemp("precision"), 900)


def last_losses(output):
    """Mean loss of the last ten updates."""
    found = losses(output)
    return sum(found[update] for update in range(UPDATES - 9, UPDATES + 1)) / 10


@pytest.fixture(scope="module")
def float32(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("float32")
    return last_losses(train(data, folder / "run", "--max-update", UPDATES)[0].succeed())


# Scales at which nothing overflows: on a CPU fairseq asks for a GPU after an overflow, and ends.
MODES = {
    "fp16-no-flatten-grads": ["--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", 4],
    "memory-efficient-fp16": ["--memory-efficient-fp16", "--fp16-init-scale", 4],
    "amp": ["--amp"],
}


@pytest.mark.parametrize("mode", sorted(MODES))
def test_loss_is_that_of_float32(data, float32, tmp_path, mode):
    output = train(data, tmp_path / "run", *MODES[mode], "--max-update", UPDATES)[0].succeed()
    assert last_losses(output) == pytest.approx(float32, rel=0.02)
    memory = load(tmp_path / "run" / "checkpoint_last.pt")["extra_state"]["train_iterator"]["streams"]["memory"]
    half = torch.float32 if mode == "amp" else torch.float16
    assert memory["tensors"]["lse0"].dtype == torch.float32
    assert memory["tensors"]["embeddings"].dtype == memory["tensors"]["output0"].dtype == half


def train_by_hydra(data, folder, name, precision, updates):
    """The same model by a file, since ``--bf16`` on the command line is fairseq's for a TPU where there is no GPU."""
    (folder / "half.yaml").write_text(
        f"""# @package _group_
common: {{{precision}: true, cpu: true, user_dir: {PLUGIN}, log_format: json, log_interval: 1}}
task: {{_name: memory_language_modeling, data: {data}, tokens_per_sample: 8}}
model: {{_name: lamemo_lm, decoder_layers: 2, decoder_embed_dim: 16, decoder_ffn_embed_dim: 32,
  decoder_attention_heads: 2, mem_len: 12, dropout: 0.1, attention_dropout: 0.1}}
criterion: {{_name: cross_entropy}}
optimizer: {{_name: adam, adam_betas: "(0.9, 0.999)"}}
lr_scheduler: {{_name: fixed}}
dataset: {{batch_size: 4, num_workers: 0, disable_validation: true}}
optimization: {{lr: [0.01], clip_norm: 0.25, max_update: {updates}}}
checkpoint: {{save_dir: {folder}/{name}}}
"""
    )
    flags = ["--config-dir", folder, "--config-name", "half", f"hydra.run.dir={folder}/hydra"]
    return Command("hydra_train", flags, folder / f"{name}.log").succeed()


def test_bfloat16_by_hydra(data, float32, tmp_path):
    output = train_by_hydra(data, tmp_path, "run", "bf16", UPDATES)
    assert last_losses(output) == pytest.approx(float32, rel=0.02)
    memory = load(tmp_path / "run" / "checkpoint_last.pt")["extra_state"]["train_iterator"]["streams"]["memory"]
    assert memory["tensors"]["lse0"].dtype == torch.float32
    assert memory["tensors"]["output0"].dtype == torch.bfloat16


def test_resuming_in_another_precision(data, tmp_path):
    """The memory is cast to what the model now is."""
    flags = MODES["fp16-no-flatten-grads"]
    train(data, tmp_path / "run", "--max-update", 5)[0].succeed()
    output = train(data, tmp_path / "run", *flags, "--reset-optimizer", "--max-update", 8)[0].succeed()
    assert "with the memory as it was saved" in output


@pytest.mark.parametrize("mode", sorted(MODES))
def test_resuming_in_half_precision_is_exact(data, tmp_path, mode):
    """Weights, float32 weights and moments, while the loss scale grows every five updates."""
    flags = [*MODES[mode], *(["--fp16-scale-window", 5] if mode != "amp" else [])]
    train(data, tmp_path / "halves", *flags, "--max-update", 8)[0].succeed()
    output = train(data, tmp_path / "halves", *flags, "--max-update", 12)[0].succeed()
    train(data, tmp_path / "whole", *flags, "--max-update", 12)[0].succeed()
    paths = [tmp_path / name / "checkpoint_last.pt" for name in ("halves", "whole")]
    assert_same_training(*paths)
    states = [load(path)["last_optimizer_state"] for path in paths]
    for key in ("loss_scale", "loss_scale_counters", "grad_scaler"):
        assert states[0].get(key) == states[1].get(key)
    weights = [state.get("fp32_params", []) for state in states]
    assert (len(weights[0]) > 0) == (mode == "fp16-no-flatten-grads")
    assert all(torch.equal(one, other) for one, other in zip(*weights))
    assert "rebuilt from 16 bits" not in output


@pytest.mark.parametrize("precision", ["bf16", "memory_efficient_bf16"])
def test_resuming_in_bfloat16_is_exact(data, tmp_path, precision):
    """As above; bf16 has float32 weights beside its own, in one flat tensor on a GPU and one per parameter here."""
    train_by_hydra(data, tmp_path, "whole", precision, 12)
    train_by_hydra(data, tmp_path, "halves", precision, 8)
    output = train_by_hydra(data, tmp_path, "halves", precision, 12)
    assert "with the memory as it was saved" in output and "rebuilt from 16 bits" not in output
    paths = [tmp_path / name / "checkpoint_last.pt" for name in ("halves", "whole")]
    assert_same_training(*paths)
    weights = [load(path)["last_optimizer_state"].get("fp32_params", []) for path in paths]
    assert (len(weights[0]) > 0) == (precision == "bf16")
    assert all(torch.equal(one, other) for one, other in zip(*weights))


def test_checkpoints_without_float32_weights_say_so(data, tmp_path):
    flags = [*MODES["fp16-no-flatten-grads"], "--max-update"]
    train(data, tmp_path / "run", *flags, 4)[0].succeed()
    path = tmp_path / "run" / "checkpoint_last.pt"
    state = load(path)
    del state["last_optimizer_state"]["fp32_params"]
    torch.save(state, path)
    assert "holds no float32 weights" in train(data, tmp_path / "run", *flags, 6)[0].succeed()


def small_training(data, *flags):
    """Task, model, criterion and optimizer as the trainer makes them, and the first batches of the text."""
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(
        parser, [str(data), *TINY, "--cpu", "--fp16", "--fp16-no-flatten-grads", "--user-dir", PLUGIN, *flags]
    )
    cfg = convert_namespace_to_omegaconf(args)
    task = tasks.setup_task(cfg.task)
    task.load_dataset("train")
    set_torch_seed(1)
    model, criterion = task.build_model(cfg.model).half(), task.build_criterion(cfg.criterion)
    optimizer = FP16Optimizer.build_optimizer(cfg, list(model.parameters()))
    iterator = task.get_batch_iterator(task.dataset("train"), max_sentences=2, num_shards=1)
    return task, model, criterion, optimizer, list(iterator.next_epoch_itr(shuffle=False))


def test_memory_after_an_overflow_is_that_of_before(data):
    """The scale is so large that the first updates overflow, as in a run's first minutes."""
    flags = ["--fp16-init-scale", "65536", "--lr", "0"]  # weights stay, so that memories can be compared
    task, model, criterion, optimizer, batches = small_training(data, *flags)
    memory, made, dropped, states = task.training_memory, [], [], []
    for number, batch in enumerate(batches[:12]):
        before = memory.committed.get(model.decoder)
        optimizer.zero_grad()
        memory.begin()
        set_torch_seed(number)
        task.train_step(batch, model, criterion, optimizer, number)
        optimizer.multiply_grads(1 / batch["ntokens"])
        try:
            optimizer.clip_grad_norm(0.25)
        except OverflowError:
            dropped.append(number)
            assert memory.committed.get(model.decoder) is before
            continue
        task.optimizer_step(optimizer, model, number)
        made.append(number)
        states.append(memory.committed[model.decoder].state)
        assert memory.committed[model.decoder].following == number + 1
        assert memory.committed[model.decoder].state.is_finite()
    assert made and dropped and dropped[0] == 0, "both happened, the overflow first"

    # A stream that never saw the dropped batches holds the same at every moment.
    other = MemoryStore("train")
    for place, number in enumerate(made):
        set_torch_seed(number)
        model(**{**batches[number]["net_input"], "segment": place, "store": other})
        expected = other.committed[model.decoder].state
        assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in states[place].tensors.items())


def test_memory_that_is_not_finite_is_not_kept():
    memory, decoder = TrainingMemory("train"), object()
    good = MemoryState({"rows": torch.ones(2, 3, 4), "lse": torch.zeros(2, 3)}, 3, 3)
    memory.begin()
    memory.keep(decoder, 0, good)
    memory.commit()
    for name, value in (("rows", float("inf")), ("lse", float("nan"))):
        tensors = {key: tensor.clone() for key, tensor in good.tensors.items()}
        tensors[name].view(-1)[5] = value
        memory.begin()
        memory.keep(decoder, 1, MemoryState(tensors, 3, 3))
        memory.commit()
        assert memory.committed[decoder].state is good and memory.committed[decoder].following == 1


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("flags", [["--fp16", "--fp16-init-scale", 2**20], ["--amp", "--fp16-init-scale", 2**40]])
def test_overflow_on_a_gpu(data, float32, tmp_path, flags):
    """The scale is too large at first: updates are dropped, or tried again, and the run goes on."""
    command = train(data, tmp_path / "run", *flags, "--max-update", UPDATES, cpu=False)[0]
    output = command.succeed()
    assert re.search("overflow detected", output)
    assert last_losses(output) == pytest.approx(float32, rel=0.02)


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("flags", [["--fp16"], ["--memory-efficient-fp16"], ["--amp"]])
def test_on_a_gpu(data, float32, tmp_path, flags):
    output = train(data, tmp_path / "run", *flags, "--max-update", UPDATES, cpu=False)[0].succeed()
    assert last_losses(output) == pytest.approx(float32, rel=0.02)
