"""Ratios beside a peer: names, and what they are ratios of. Speed is measured there, never asserted here."""

import argparse
import sys
from pathlib import Path

import pytest
import torch

from lamemo_fairseq.benchmark import peers
from lamemo_fairseq.benchmark.models import TINY
from lamemo_fairseq.core.errors import UsageError

NAMES = [f"{kind}_over_transfoxl_mem{memory}" for memory in (128, 512, 1024) for kind in ("recurrence", "lookahead")]
# A peer whose steps take a thousand seconds: it speaks as peer_transfoxl.py does.
SLOW_PEER = """
import json, sys
sizes = json.loads(sys.argv[1])
assert sizes["layers"] == 2 and sizes["dropout"] == 0 and sizes["memory"] in (128, 512, 1024), sizes
print(json.dumps({"parameters": 7, "version": "0"}), flush=True)
for line in sys.stdin:
    times = [1000.0] * int(line)
    print(json.dumps({"seconds": times, "cpu_seconds": times}), flush=True)
"""


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"sizes": TINY, "device": "cpu", "threads": 1, "repeats": 1, **given})


def test_a_table_beside_a_peer(tmp_path: Path) -> None:
    script = tmp_path / "slow_peer.py"
    script.write_text(SLOW_PEER)
    table = peers.compare(options(), [sys.executable, str(script)])
    assert list(table.ratios) == NAMES
    assert all(0 < ratio < 0.1 for ratio in table.ratios.values())  # ours over theirs, not the reverse
    assert [row[0] for row in table.rows] == ["128", "512", "1024"]
    assert all(len(row) == len(table.head) and row[1] == "1000000" for row in table.rows)
    assert "7 parameters" in table.title


def test_a_peer_that_ends_is_one_line(tmp_path: Path) -> None:
    script = tmp_path / "broken_peer.py"
    script.write_text("import sys; sys.exit(3)")
    with pytest.raises(UsageError, match=r"broken_peer.py ended with 3") as error:
        peers.compare(options(), [sys.executable, str(script)])
    assert "\n" not in str(error.value)


def test_peers_are_for_the_cpu() -> None:
    with pytest.raises(UsageError, match="--device cuda"):
        peers.peers(options(device="cuda"))


@pytest.mark.slow  # installs an environment, once, and imports transformers three times
def test_transfoxl_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    try:
        table = peers.peers(options())
    except UsageError as error:
        if "pip could not install" in str(error):
            pytest.skip("transformers is not installed, and pip cannot fetch it here")
        raise
    assert list(table.ratios) == NAMES and all(ratio > 0 for ratio in table.ratios.values())
    # The same model: Transformer-XL has as many parameters, look-ahead one position vector [H, d] more.
    assert f"(+0 recurrence, +{TINY.width} lookahead)" in table.title
    assert torch.get_num_threads() == threads
