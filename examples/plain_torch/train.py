"""A language model with look-ahead memory in an ordinary PyTorch loop: text in, a sample out, no fairseq.

python examples/plain_torch/train.py TEXT [--memory lookahead] [--updates 500] [--prompt "The "]
"""

import argparse
from pathlib import Path

import torch

from lamemo_fairseq.core import KINDS, MemoryTransformer, ModelConfig

STREAMS, SEGMENT = 8, 32  # streams side by side, and tokens of each that are read at once


def train(model: MemoryTransformer, text: torch.Tensor, updates: int) -> float:
    """Reads the text [total] in STREAMS streams, segment by segment; the last loss, in nats per character."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    length = (len(text) - 1) // STREAMS
    source, target = (text[shift : shift + STREAMS * length].view(STREAMS, length) for shift in (0, 1))
    segments = list(zip(source.split(SEGMENT, dim=1), target.split(SEGMENT, dim=1)))
    state, value = None, 0.0
    model.train()
    for update in range(updates):
        if update % len(segments) == 0:
            state = None  # the beginning of the text continues nothing
        tokens, targets = segments[update % len(segments)]
        features, state, aux = model(tokens, state)
        log_probs = model.target_log_probs(features.flatten(0, 1), targets.flatten())
        loss = -log_probs.mean()
        optimizer.zero_grad()
        (loss + sum(aux.losses.values())).backward()  # some memories have a loss of their own
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        value = float(loss)
        if update % 50 == 0:
            print(f"update {update}: {value:.3f} nats per character")
    return value


@torch.no_grad()
def sample(model: MemoryTransformer, prompt: torch.Tensor, length: int, seed: int) -> torch.Tensor:
    """``length`` tokens that continue the prompt [n]; segments enter the memory as they fill up."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    segment = model.new_segment(streams=1)
    features, written = model.decode_step(prompt[None], segment), []
    for _ in range(length):
        probabilities = model.log_probs(features)[0, -1].exp()
        written.append(torch.multinomial(probabilities, 1, generator=generator))
        features = model.decode_step(written[-1][None], segment)
    return torch.cat(written)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains on a text file, and writes a sample.")
    parser.add_argument("text", type=Path)
    parser.add_argument("--memory", default="lookahead", choices=list(KINDS))
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--prompt", default="The ")
    options = parser.parse_args()
    torch.manual_seed(1)
    text = options.text.read_text(encoding="utf-8")
    symbols = sorted(set(text + options.prompt))
    number = {symbol: place for place, symbol in enumerate(symbols)}
    cfg = ModelConfig(
        len(symbols), options.memory, mem_len=64, layers=2, dim=64, ffn_dim=128, heads=4, segment_length=SEGMENT
    )
    model = MemoryTransformer(cfg)
    train(model, torch.tensor([number[symbol] for symbol in text]), options.updates)
    prompt = torch.tensor([number[symbol] for symbol in options.prompt])
    print(options.prompt + "".join(symbols[token] for token in sample(model, prompt, 200, seed=1)))


if __name__ == "__main__":
    main()
