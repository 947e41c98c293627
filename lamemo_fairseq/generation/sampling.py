"""Sampling with a random generator of its own: pure, top-k and top-p (nucleus, arXiv 1904.09751)."""

from typing import Optional, Tuple

import torch
from fairseq import search
from fairseq.data import Dictionary
from torch import Tensor

from .session import NEVER


class Sampling(search.Search):
    """Fairseq's sampling, whose draws touch no global random state and wait for no device.

    Args:
        dictionary: V symbols.
        topk: draw from the k most likely tokens; below 1: from all.
        topp: draw from the fewest tokens whose probability exceeds p, in parts of what may be written; not
            between 0 and 1: from all.
        generator: where random numbers come from, on the models' device.
    """

    def __init__(self, dictionary: Dictionary, topk: int, topp: float, generator: torch.Generator) -> None:
        super().__init__(dictionary)
        self.topk, self.topp, self.generator = topk, topp, generator

    def step(
        self,
        step: int,
        lprobs: Tensor,
        scores: Tensor,
        prev_output_tokens: Optional[Tensor] = None,
        original_batch_idxs: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Draws a token for each beam.

        Args:
            step: number of the step; in the first all beams continue the same hypothesis.
            lprobs: [B, beams, V] log-probabilities.
            scores: [B, beams, step] those of the hypotheses so far, summed up.
            prev_output_tokens, original_batch_idxs: not needed; fairseq passes them.

        Returns:
            summed scores, tokens and beams that they continue, each [B, beams].
        """
        B, beams, _ = lprobs.shape
        if step == 0:
            lprobs = lprobs[:, :1].expand_as(lprobs)
        chosen = self.draw(self.truncate(lprobs))
        found = lprobs.gather(2, chosen.unsqueeze(2)).squeeze(2)
        if step == 0:
            return found, chosen, torch.zeros_like(chosen)
        return found + scores[:, :, step - 1], chosen, torch.arange(beams, device=chosen.device).repeat(B, 1)

    def truncate(self, lprobs: Tensor) -> Tensor:
        """``lprobs`` [B, beams, V] without the tokens beyond the top k, or beyond the nucleus."""
        if self.topk >= 1:
            values, tokens = lprobs.topk(min(self.topk, lprobs.size(2)))
        elif 0 < self.topp < 1:
            values, tokens = lprobs.sort(dim=2, descending=True)
            probabilities = values.exp()
            total = probabilities.cumsum(2)
            # A token stays if those before it do not reach p yet: the first one always does.
            values = values.masked_fill(total - probabilities >= self.topp * total[:, :, -1:], NEVER)
        else:
            return lprobs
        return torch.full_like(lprobs, NEVER).scatter_(2, tokens, values)

    def draw(self, lprobs: Tensor) -> Tensor:
        """One token from each of the (unnormalised) distributions ``lprobs`` [B, beams, V]: [B, beams].

        The largest of p / e, with e exponential, is token i with probability p_i (the Gumbel-max trick).
        """
        noise = torch.empty_like(lprobs, memory_format=torch.contiguous_format)
        noise.exponential_(generator=self.generator).clamp_min_(torch.finfo(noise.dtype).tiny)
        return (lprobs.exp() / noise).argmax(2)


def generator_for(device: torch.device, seed: int) -> torch.Generator:
    """A random generator on ``device`` that begins at ``seed``."""
    return torch.Generator(device=device).manual_seed(seed)
