"""Segments of varying length, as Transformer-XL's trainer draws them."""

import numpy as np

from .layout import Layout

#: how often a segment is drawn around half the length, and how far lengths deviate, in tokens
HALF, DEVIATION = 0.05, 5.0
SHORTEST = 5


def varied(total: int, streams: int, tokens: int, seed: int, epoch: int, offset: int = 0) -> Layout:
    """Streams cut into segments whose lengths are drawn: 95 % around ``tokens``, 5 % around half of it.

    Each length is normal with a deviation of 5 tokens, and lies between 5 tokens and ``tokens`` plus three
    deviations (the iterator for varying lengths in the program of Dai et al., arXiv 1901.02860). Drawn from
    ``seed`` and ``epoch`` alone: all ranks cut alike, and a resumed run cuts as before.
    """
    generator = np.random.default_rng([seed, epoch])
    longest = Layout(total, streams, (0,), offset=offset).longest
    boundaries = [0]
    while boundaries[-1] < longest:
        centre = tokens if generator.random() >= HALF else tokens / 2
        length = int(generator.normal(centre, DEVIATION))
        boundaries.append(boundaries[-1] + min(max(SHORTEST, length), tokens + round(3 * DEVIATION)))
    return Layout(total, streams, boundaries, offset=offset)
