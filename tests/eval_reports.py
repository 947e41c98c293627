"""For tests of evaluation: ``fairseq-eval-lm`` as a process, and the line that it ends with."""

import re
from pathlib import Path
from typing import Any, Dict

from commands import Command
from conftest import USER_DIR

REPORT = re.compile(
    r"(?P<split>\w+): (?P<targets>\d+) targets in the split(?: \((?P<part>[^)]*)\))?, (?P<scored>\d+) targets scored, "
    r"(?P<partial_memory>\d+) of them with less than (?P<memory>\d+) tokens of memory, (?P<context>\d+) tokens run "
    r"only as context, loss (?P<loss>[\d.]+) nats per token, (?P<bpc>[\d.]+) bits per character \((?P<characters>\d+) "
    r"characters\), perplexity (?P<perplexity>[\d.]+) per token(?:, perplexity (?P<word_perplexity>[\d.]+) per word "
    r"\((?P<words>\d+) words\))?(?:, (?P<plain_word_perplexity>[\d.]+) where ends of lines are no words "
    r"\((?P<plain_words>\d+) words\))?(?:, (?P<bits_per_byte>[\d.]+) bits per byte \((?P<bytes>\d+) bytes\))?, "
    r"(?P<unknown>\d+) targets unknown \((?P<unknown_percent>[\d.]+) %\); "
    r"characters and words as (?P<source>the original text has them|the dictionary spells them)$",
    re.MULTILINE,
)


def eval_lm(data: Path, checkpoint: Path, log: Path, *flags: Any) -> Command:
    """Starts the command."""
    base = [data, "--task", "memory_language_modeling", "--user-dir", USER_DIR, "--path", checkpoint, "--cpu"]
    return Command("eval_lm", [*base, "--gen-subset", "test", "--tokens-per-sample", 16, *flags], log)


def report(output: str) -> Dict[str, Any]:
    """The report line, which must come behind fairseq's own last line."""
    found = list(REPORT.finditer(output))
    assert len(found) == 1, output[-2000:]
    assert found[0].start() > output.index("Loss (base 2)")
    return {
        name: value if value is None or name in ("split", "part", "source") else float(value)
        for name, value in found[0].groupdict().items()
    }
