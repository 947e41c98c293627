"""The tables and figures of this page, computed by the package's own code on a text of 17 tokens.

python examples/how_it_works/make_figures.py    # prints the tables, and writes the figures beside itself
"""

import argparse
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import torch

from lamemo_fairseq.core import MemoryTransformer, ModelConfig
from lamemo_fairseq.core.positions import AttentionGeometry, align
from lamemo_fairseq.core.softmax import Attention, attend
from lamemo_fairseq.data.layout import Layout
from lamemo_fairseq.data.segments import Segments

TOTAL, STREAMS, TOKENS, MEM_LEN = 17, 2, 3, 4
EOS, PAD = TOTAL, TOTAL + 1  # ids of the symbols that are no token of the text
SIZES: Dict[str, Any] = {"layers": 3, "dim": 8, "heads": 2, "ffn_dim": 16}

Table = List[List[str]]


class Text:
    """A split whose token number t has the id t."""

    name = "text"

    def span(self, start: int, end: int) -> torch.Tensor:
        return torch.arange(start, end)


class Step(NamedTuple):
    """One segment of one stream: what the memory held before, and what the segment reads."""

    memory: List[int]
    current: List[int]
    last_written: int
    geometry: AttentionGeometry

    @property
    def symbols(self) -> List[int]:
        return self.memory + self.current


def show(token: int) -> str:
    return {EOS: "&lt;/s&gt;", PAD: "pad"}.get(token, str(token))


def listed(tokens: Sequence[int]) -> str:
    return " ".join(show(token) for token in tokens) or "none"


def cut() -> Segments:
    return Segments(Text(), Layout.even(TOTAL, STREAMS, TOKENS), PAD, EOS)


def batches() -> List[Dict[str, Any]]:
    segments = cut()
    return [segments.collater([segments[n] for n in batch]) for batch in segments.batches(STREAMS, 1)]


def model(memory: str) -> MemoryTransformer:
    torch.manual_seed(1)
    return MemoryTransformer(ModelConfig(PAD + 1, memory=memory, mem_len=MEM_LEN, **SIZES)).eval()


@torch.no_grad()
def states(memory: str = "lookahead") -> List[Any]:
    """The model's memory after each segment."""
    network, state, found = model(memory), None, []
    for batch in batches():
        _, state, _ = network(batch["net_input"]["src_tokens"], state)
        found.append(state)
    return found


def held(state: Any, stream: int) -> List[int]:
    """Which tokens a look-ahead memory holds: those whose embeddings it stores."""
    network = model("lookahead")
    with torch.no_grad():
        single = [network(torch.tensor([[token]]), None)[1].tensors["embeddings"][0, 0] for token in range(PAD + 1)]
    distance = torch.cdist(state.tensors["embeddings"][stream], torch.stack(single))
    assert float(distance.min(-1).values.max()) < 1e-5
    return distance.argmin(-1).tolist()


def steps(stream: int = 0) -> List[Step]:
    """The segments of a stream, with the geometry that the model's layers share."""
    positions, written = model("lookahead").positions, 0
    found: List[Step] = []
    memory: List[int] = []
    for batch, state in zip(batches(), states()):
        current = batch["net_input"]["src_tokens"][stream].tolist()
        geometry = positions.geometry(len(current), len(memory), written, torch.zeros(1))
        found.append(Step(memory, current, written, geometry))
        memory, written = held(state, stream), state.last_written
    return found


def cut_table() -> Table:
    """Literal inputs and targets of each segment."""
    rows = [["segment", "stream", "reads", "predicts"]]
    for number, batch in enumerate(batches()):
        for stream in range(STREAMS):
            reads, predicts = batch["net_input"]["src_tokens"][stream].tolist(), batch["target"][stream].tolist()
            rows.append([str(number), str(stream), listed(reads), listed(predicts)])
    return rows


def kept_table() -> Table:
    """What the memory holds after each segment."""
    rows = [["after segment", "M", "A", "stream 0 holds", "stream 1 holds"]]
    for number, state in enumerate(states()):
        holds = [listed(held(state, stream)) for stream in range(STREAMS)]
        rows.append([str(number), str(state.length), str(state.last_written), *holds])
    return rows


def shape_table() -> Table:
    """The tensors of a full memory."""
    rows = [["kind", "tensor", "shape"]]
    for memory in ("lookahead", "recurrence"):
        for name, tensor in states(memory)[-1].tensors.items():
            rows.append([memory, name, " x ".join(str(size) for size in tensor.shape)])
    return rows


def distances(step: Step) -> List[List[Any]]:
    """Per token of memory and segment, the signed distance to each key: below 0 is right, None is hidden."""
    memory, keys = len(step.memory), len(step.symbols)
    grid: List[List[Any]] = [[None] * keys for _ in range(keys)]
    descending = torch.arange(keys, -1, -1).expand(len(step.current), -1)
    for query, (mask, known) in enumerate(zip(step.geometry.attn_mask, align(descending))):
        for key in range(keys):
            grid[memory + query][key] = int(known[key]) if mask[key] == 0 else None
    ahead = step.geometry.ahead
    if ahead is not None:
        assert len(ahead.index) == 1, "one block of slots"
        known = align((keys - ahead.index[0]).expand(memory, -1))
        for slot in range(memory):
            for column in range(ahead.keys):
                key = memory - ahead.keys + 1 + column
                grid[slot][key] = -int(known[slot, column]) if ahead.attn_mask[slot, column] == 0 else None
    return grid


def seen_table() -> Table:
    """Which keys each token of the last memory has attended to, and when."""
    plan = steps()
    rows = [["token", *(f"in segment {number}" for number in range(len(plan)))]]
    for token in plan[-1].memory:
        line = [show(token)]
        for step in plan:
            at = step.symbols.index(token) if token in step.symbols else None
            seen = [] if at is None else [s for s, d in zip(step.symbols, distances(step)[at]) if d is not None]
            line.append(listed(seen) if seen else "not read yet")
        rows.append(line)
    return rows


def alpha_table() -> Table:
    """Two steps of interpolation, and one softmax over all keys, on scores and values small enough to check."""
    scores, values = torch.tensor([0.0, 1.0, 2.0, 0.5, 1.5]).double(), torch.tensor([1.0, 2.0, 4.0, -1.0, 3.0]).double()
    rows = [["what", "scores", "values", "lse", "output", "alpha"]]

    def numbers(what: torch.Tensor) -> str:
        return " ".join(f"{number:g}" for number in what.tolist())

    def line(what: str, first: int, last: int, previous: Any = None) -> Attention:
        here, value = scores[None, None, None, first:last], values[None, None, first:last, None]
        got = attend(here, value, previous_attention=previous, want_lse=True)
        assert got.lse is not None
        alpha = "" if got.alpha is None else f"{float(got.alpha):.4f}"
        texts = numbers(scores[first:last]), numbers(values[first:last])
        rows.append([what, *texts, f"{float(got.lse):.4f}", f"{float(got.output):.4f}", alpha])
        return Attention(got.output, got.lse)

    current = line("as current token: o_old", 0, 2)
    line("new keys alone: o_new", 2, 3)
    merged = line("interpolated", 2, 3, current)
    line("interpolated again, a segment later", 3, 5, merged)
    line("one softmax over all five", 0, 5)
    return rows


def tables() -> Dict[str, Table]:
    """All tables, by their first cell's line in the page."""
    found = [cut_table(), kept_table(), shape_table(), seen_table(), alpha_table()]
    return {" | ".join(table[0]): table for table in found}


def markdown(table: Table) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([head, "|" + "---|" * len(table[0]), *body])


STYLE = "font-family='sans-serif' font-size='13' text-anchor='middle'"


def svg(width: int, height: int, parts: Sequence[str]) -> str:
    """A figure; written by hand, since plotting libraries draw the same differently from version to version."""
    size = f"width='{width}' height='{height}' viewBox='0 0 {width} {height}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} {STYLE}>"
    return "\n".join([head, f"<rect width='{width}' height='{height}' fill='white'/>", *parts, "</svg>"]) + "\n"


def cell(x: int, y: int, text: str, colour: str, width: int = 44) -> str:
    box = f"<rect x='{x}' y='{y}' width='{width}' height='28' fill='{colour}' stroke='#888'/>"
    return box + f"<text x='{x + width // 2}' y='{y + 19}'>{text}</text>"


def words(x: int, y: int, text: str, anchor: str = "middle") -> str:
    return f"<text x='{x}' y='{y}' text-anchor='{anchor}'>{text}</text>"


GREY, BLUE, ORANGE, WHITE = "#e4e4e4", "#bcd6f2", "#f8cf9c", "#ffffff"


def streams_figure() -> str:
    """Two streams, three segments: what is read, and the memory that stands before it."""
    parts = [words(16, 24, "grey: memory that stands before the segment; blue: what the segment reads", "start")]
    for stream in range(STREAMS):
        x = 70
        parts.append(words(36, 70 + 60 * stream, f"stream {stream}"))
        for number, step in enumerate(steps(stream)):
            if stream == 0:
                parts.append(words(x, 44, f"segment {number}", "start"))
            for token, colour in [(t, GREY) for t in step.memory] + [(t, BLUE) for t in step.current]:
                parts.append(cell(x, 51 + 60 * stream, show(token), colour, 38))
                x += 38
            x += 24
    return svg(x, 160, parts)


def attention_figure() -> str:
    """Which token attends to which key in the last segment of stream 0; numbers are distances."""
    step = steps()[-1]
    left, top = 120, 84
    parts = [words(16, 24, "segment 2, stream 0: rows attend to columns; numbers: distances", "start")]
    parts.append(words(16, 44, "blue: to the left, Transformer-XL; orange: look-ahead", "start"))
    for place, token in enumerate(step.symbols):
        kind = "memory" if place < len(step.memory) else "current"
        parts.append(words(left + 44 * place + 22, top - 8, show(token)))
        parts.append(words(left - 8, top + 28 * place + 19, f"{kind} {show(token)}", "end"))
    for row, line in enumerate(distances(step)):
        for key, distance in enumerate(line):
            colour = WHITE if distance is None else BLUE if distance >= 0 else ORANGE
            text = "" if distance is None else str(abs(distance))
            parts.append(cell(left + 44 * key, top + 28 * row, text, colour))
    size = len(step.symbols)
    return svg(left + 44 * size + 20, top + 28 * size + 20, parts)


FIGURES = {"streams.svg": streams_figure, "attention.svg": attention_figure}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dest", type=Path, default=Path(__file__).parent, help="where figures go")
    folder = parser.parse_args().dest
    for name, draw in FIGURES.items():
        (folder / name).write_text(draw(), encoding="utf-8")
    print("\n\n".join(markdown(table) for table in tables().values()))


if __name__ == "__main__":
    main()
