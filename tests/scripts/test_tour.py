"""The notebook of examples/ runs from its first cell to its last, in the time that it promises."""

import os
import re
import resource
import sys
from pathlib import Path

import nbformat
import pytest
from commands import ROOT

TOUR = ROOT / "examples" / "tour.ipynb"


def test_it_is_stored_without_outputs_and_its_links_lead_somewhere() -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links and all((TOUR.parent / link).exists() for link in links)


@pytest.mark.slow  # trains for a minute, in a kernel of its own
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    notebook = nbformat.read(TOUR, as_version=4)
    prepare = [cell for cell in notebook.cells if cell.source.startswith("!lamemo prepare shakespeare")]
    assert len(prepare) == 1
    prepare[0].source += " --offline"  # nothing is fetched
    folder = tmp_path / "examples"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # or the notebook's figures would go nowhere
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=place).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of processors, since others may be at work on this machine: two of them have as many in five minutes.
    seconds = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    assert seconds < 600

    outputs = {cell.source: "".join(map(shown, cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"}
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(pictures) == 4

    def output(of: str) -> str:
        (found,) = (text for source, text in outputs.items() if of in source)
        return found

    assert "done training" in output("fairseq-train") and "targets scored" in output("fairseq-eval-lm")
    bits = [float(value) for value in re.findall(r"([\d.]+) bits per character", output("for result in results:"))]
    assert len(bits) == 3 and bits[1] < bits[0] < 6  # a memory helps
    assert "of attention falls on memory" in output("seen = next")
    written = output("lm.sample")
    assert written.startswith("the ") and len(written) > 300
    assert len(re.findall(r"nats", output("lm.score"))) == len("the king")


def shown(output: dict) -> str:
    """What a person reads of an output; log lines left out."""
    return (
        ""
        if output.get("name") == "stderr"
        else str(output.get("text") or output.get("data", {}).get("text/plain", ""))
    )
