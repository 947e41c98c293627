"""Byte-pair encoding (Sennrich et al., arXiv 1508.07909): merges are learned here and applied by fastBPE.

The file of merges is fastBPE's own, a line `left right count` each, so that `--bpe fastbpe --bpe-codes FILE` reads it
when a model of pieces is asked for text.
"""

from __future__ import annotations

import heapq
import importlib.util
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ...core.errors import UsageError
from ..text_form import INSTALL_FASTBPE
from . import corpus
from .corpus import CODES, Corpus, Manifest

MOST = 400_000  # different words that merges are learned from: what bounds the memory, at a kilobyte each
END = "</w>"  # behind a word's last letter, so that a piece knows whether its word ends with it

Merge = tuple[str, str, int]


def check_installed(flag: str) -> None:
    """Raises ``UsageError`` for ``flag`` where there is no fastBPE."""
    if importlib.util.find_spec("fastBPE") is None:
        raise UsageError(f"{flag} cannot be used, {INSTALL_FASTBPE}")


def prepare(dest: Path, words: Corpus, merges: int, force: bool = False) -> Manifest:
    """A corpus of words as one of pieces; the merges, learned from its training split, travel with it as ``codes``.

    Args:
        dest: the folder to make.
        words: its splits can be read more than once.
        merges: how many pairs become one.
        force: replace another corpus.
    """
    if merges < 1:
        raise UsageError(f"--bpe {merges} merges nothing: give a number above 0, e.g. 8000")
    check_installed(f"--bpe {merges}")
    pieces = replace(words, source=f"{words.source} (byte-pair encoding, {merges} merges)")
    if corpus.is_whole(dest, pieces):
        return corpus.binarize(dest)
    corpus.check_replaces_nothing(dest, pieces, force)
    print(f"learning {merges} merges from the training text alone, of {words.source}", flush=True)
    before = words.encode or (lambda lines: lines)
    with tempfile.TemporaryDirectory() as scratch:
        codes = Path(scratch) / CODES
        write(codes, learn(before(words.splits["train"]), merges))
        extras = {**words.extras, CODES: codes}
        cut = replace(pieces, encode=lambda lines: apply(codes, before(lines)), extras=extras)
        return corpus.prepare(dest, cut, force)


def check_codes(codes: Path) -> None:
    """Raises ``UsageError`` where ``codes`` is no file of merges."""
    check_installed(f"--codes {codes}")
    try:
        lines = codes.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"--codes {codes} cannot be read ({error}): name the codes of a model's data") from error
    if not lines or any(len(line.split(" ")) != 3 for line in lines):
        raise UsageError(f"--codes {codes} is no file of merges (`left right count`): name the codes of a model's data")


def pairwise(pieces: list[str]) -> Iterator[tuple[str, str]]:
    """Each piece with the one behind it (in the standard library from Python 3.10 on)."""
    return zip(pieces, pieces[1:])


def frequent(lines: Iterable[str], most: int) -> Counter[str]:
    """How often each word stands in ``lines``; of more than ``most`` words, the frequent ones.

    Where there are too many, those that were seen least so far are left out (lossy counting, Manku and Motwani 2002).
    """
    words: Counter[str] = Counter()
    least = 0
    for line in lines:
        words.update(line.split())
        while len(words) > most:
            least += 1
            words = Counter({word: times for word, times in words.items() if times > least})
    if least:
        print(f"  more than {most:,} different words: merges are learned from those seen more than {least} times")
    return words


def learn(lines: Iterable[str], merges: int) -> list[Merge]:
    """Again and again the most frequent pair of neighbours within words becomes one piece.

    Returns:
        ``left, right, count`` of each merge; fewer than ``merges`` where no pair is left. Among equally frequent
        pairs the alphabet decides.
    """
    words = frequent(lines, MOST)
    spelled = [[*word[:-1], word[-1] + END] for word in words]
    times = list(words.values())
    counts: Counter[tuple[str, str]] = Counter()
    where = defaultdict(set)
    for number, pieces in enumerate(spelled):
        for pair in pairwise(pieces):
            counts[pair] += times[number]
            where[pair].add(number)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    found: list[Merge] = []
    while heap and len(found) < merges:
        negative, best = heapq.heappop(heap)
        if counts[best] != -negative or not negative:
            continue  # outdated: the pair stands in the heap with its present count as well
        found.append((*best, -negative))
        changed = set()
        for number in where.pop(best):
            before, after = spelled[number], merged(spelled[number], best)
            for pair in pairwise(before):
                counts[pair] -= times[number]
                changed.add(pair)
            for pair in pairwise(after):
                counts[pair] += times[number]
                where[pair].add(number)
                changed.add(pair)
            spelled[number] = after
        for pair in changed - {best}:
            heapq.heappush(heap, (-counts[pair], pair))
    return found


def merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """``pieces`` with each occurrence of ``pair``, from the left, as one."""
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def write(path: Path, merges: list[Merge]) -> None:
    """The file that fastBPE reads."""
    path.write_text("".join(f"{left} {right} {count}\n" for left, right, count in merges), encoding="utf-8")


def apply(path: Path, lines: Iterable[str]) -> Iterator[str]:
    """Lines as pieces; `@@` stands behind a piece that its word goes on after."""
    from fastBPE import fastBPE

    pieces = fastBPE(str(path))
    for line in lines:
        yield pieces.apply([" ".join(line.split())])[0]  # it splits at blanks alone
