"""One direction of fused attention: some rows of queries over a span of keys, forward and backward.

``fused_attention.py`` puts the directions together, and says what is computed. Heads come first and streams second in
all that products read, [H * B, n, d], so that one head's distances serve all streams by one product. Letters as in
``softmax.py`` and ``positions.py``; Q rows of queries, n of them in this direction; S' distances that are encoded, and
S columns of them in this direction, one more than a row of the aligned window is long. Slow reference:
``causal_scores``, ``ahead_scores`` and ``softmax.attend``, compared in ``tests/core/test_fused.py``.
"""

from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from .compiled import is_compiling


@dataclass(frozen=True)
class Window:
    """Where the aligned scores lie in the products of n queries with S distances, as in ``positions.align``.

    Row r, key c is element ``start + r (S - 1) + c`` of the flat products [n * S] of one stream and head.

    Attributes:
        start: the first row's first key.
        visible: keys, from the first on, that no row's mask hides.
    """

    start: int
    visible: int = 0

    def of(self, flat: Tensor, rows: int, keys: int, columns: int) -> Tensor:
        """The window [H * B, n, keys] of ``flat`` [H * B, n * S], a view."""
        return flat.as_strided((flat.size(0), rows, keys), (rows * columns, columns - 1, 1), self.start)

    def product(self, one: Tensor, other: Tensor, columns: int) -> Tuple[Tensor, Tensor]:
        """``one * other`` [H * B, n, keys] and the flat [H * B, n * S] with it in the window and 0 elsewhere."""
        groups, n, count = one.shape
        if is_compiling():  # into part of a tensor nothing can be traced; compiled, padding costs no pass of its own
            scores = one * other
            rows = F.pad(scores, (0, columns - 1 - count)).flatten(1)  # rows as far apart as in the window
            return F.pad(rows, (self.start, n - self.start)), scores
        # Written where the products' gradient wants it: the products outside of the window were seen by nobody.
        flat = one.new_empty(groups, n * columns)
        if count == columns - 1:
            flat[:, : self.start] = 0
            flat[:, self.start + n * count :] = 0
        else:
            flat.zero_()
        return flat, torch.mul(one, other, out=self.of(flat, n, count, columns))


@dataclass(frozen=True)
class Side:
    """Which queries, keys and distances belong to a direction.

    Attributes:
        rows: of the queries.
        keys: of all keys.
        distances: rows of the encodings, in the order that ``window`` aligns.
        mask: [n, keys], ``-inf`` where a row may not look; each row sees a key.
        window: which distance belongs to which key.
    """

    rows: slice
    keys: slice
    distances: Union[slice, Tensor]
    mask: Tensor
    window: Window

    def relative(self, encodings: Tensor, heads: int) -> Tensor:
        """Projected encodings [S', H * d] of these distances, [S, H, d]."""
        chosen = self.distances
        picked = encodings[chosen] if isinstance(chosen, slice) else encodings.index_select(0, chosen)
        return picked.unflatten(-1, (heads, -1))


class Saved(NamedTuple):
    """What the backward pass of a direction needs.

    Shapes: ``content`` [H * B, n, d] and ``position`` [B * n, H, d], queries with their vectors; ``relative``
    [S, H, d]; ``weights`` [H * B, n, keys], and what dropout multiplied them by.
    """

    content: Tensor
    position: Tensor
    relative: Tensor
    weights: Tensor
    keep: Optional[Tensor]

    def used(self) -> Tensor:
        """The weights after dropout."""
        return self.weights if self.keep is None else self.weights * self.keep


class Flow(NamedTuple):
    """What the backward passes of all directions read, and where they write or add.

    Shapes: ``gradient`` of the output [H * B, Q, d]; ``delta``, its product with the output, summed over d,
    [H * B, Q, 1]; ``keys`` and ``values`` [H * B, T, d]; gradients of queries [B, Q, H, d], of the last T' keys and of
    their values, the only ones that want any, [2, H * B, T', d], and of the encodings [S', H, d], which begin as zeros.
    """

    gradient: Tensor
    delta: Tensor
    keys: Tensor
    values: Tensor
    grad_queries: Tensor
    grad_keys_values: Tensor
    grad_encodings: Tensor

    def part(self, start: int, stop: int) -> Tensor:
        """The gradient of keys beside values, as they were projected: [B, n, 2 * H * d]."""
        H = self.grad_queries.size(2)
        by_head = self.grad_keys_values[:, :, start:stop].unflatten(1, (H, -1))  # [2, H, B, n, d]
        return by_head.permute(2, 3, 0, 1, 4).flatten(2)


def write(target: Tensor, function: Callable[..., Tensor], *arguments: Any) -> None:
    """What ``function`` returns, into ``target``, which may be part of a tensor: without a copy, unless compiled."""
    if is_compiling():
        target.copy_(function(*arguments))
    else:
        function(*arguments, out=target)


def dropout_mask(like: Tensor, dropout: float) -> Tensor:
    """What dropout multiplies by: 0, or 1 / (1 - p), in the shape of ``like``."""
    if is_compiling():  # inductor of torch 2.13 gives NaN for the form below, where it is kept for backward
        return F.dropout(torch.ones_like(like), dropout)
    return torch.empty_like(like).bernoulli_(1 - dropout).div_(1 - dropout)


def attend(
    side: Side,
    queries: Tensor,
    vectors: Tuple[Tensor, Tensor],
    encodings: Tensor,
    keys: Tensor,
    values: Tensor,
    dropout: float,
    output: Tensor,
    largest: Optional[Tensor],
) -> Saved:
    """Softmax of (content·key + position·R) / sqrt(d), times values, into the rows of ``output`` [H * B, Q, d].

    ``largest`` [2, H * B, Q], where given, receives each row's largest score and largest weight, of which
    ``softmax.lse_of_largest`` is made.

    Args:
        side: the direction.
        queries: [B, Q, H, d], unscaled.
        vectors: of content and of position, [H, d].
        encodings: projected, of all distances, [S', H * d].
        keys: [H * B, T, d]; ``values`` alike.
        dropout: probability with which a weight is dropped.
        output: written.
        largest: written.
    """
    asking, keys, values = queries[:, side.rows], keys[:, side.keys], values[:, side.keys]
    B, n, H, d = asking.shape
    relative, scale = side.relative(encodings, H), d**-0.5
    count, S = keys.size(1), relative.size(0)
    by_head = queries.new_empty(H, B, n, d)
    write(by_head, torch.add, asking.permute(2, 0, 1, 3), vectors[0][:, None, None])
    content = by_head.flatten(0, 1)
    position = (asking + vectors[1]).flatten(0, 1)
    products = torch.bmm(position.transpose(0, 1), relative.permute(1, 2, 0))  # [H, B * n, S]
    aligned = side.window.of(products.view(H * B, n * S), n, count, S)
    scores = torch.baddbmm(aligned, content, keys.transpose(1, 2), beta=scale, alpha=scale)  # [H * B, n, count]
    del products, aligned
    visible = side.window.visible
    scores[..., visible:].add_(side.mask[:, visible:])  # "+=" would copy the part onto itself
    weights = torch.softmax(scores, dim=-1)
    if largest is not None:
        write(largest[0, :, side.rows], torch.amax, scores, -1)
        write(largest[1, :, side.rows], torch.amax, weights, -1)
    del scores
    saved = Saved(content, position, relative, weights, dropout_mask(weights, dropout) if dropout > 0 else None)
    write(output[:, side.rows], torch.bmm, saved.used(), values)
    return saved


def gradients_of(side: Side, saved: Saved, flow: Flow, first: bool) -> Tuple[Tensor, Tensor]:
    """The gradients of :func:`attend`: those of the vectors [H, d] are returned, the others go where ``flow`` says.

    The ``first`` direction sees all keys, and writes their gradients; a further one adds.
    """
    groups, n, d = saved.content.shape
    S, H, _ = saved.relative.shape
    B, scale = groups // H, d**-0.5
    keys, values = flow.keys[:, side.keys], flow.values[:, side.keys]
    gradient, delta = flow.gradient[:, side.rows], flow.delta[:, side.rows]
    if saved.keep is None:
        grad_weights = torch.baddbmm(delta, gradient, values.transpose(1, 2), beta=-scale, alpha=scale)
    else:
        undropped = torch.bmm(gradient, values.transpose(1, 2))
        grad_weights = torch.addcmul(delta * -scale, undropped, saved.keep, value=scale)
        del undropped
    flat, scores = side.window.product(grad_weights, saved.weights, S)
    del grad_weights
    grad_keys, grad_values = flow.grad_keys_values
    for target, one, other in ((grad_values, saved.used(), gradient), (grad_keys, scores, saved.content)):
        if first:
            write(target, torch.bmm, one[..., one.size(2) - target.size(1) :].transpose(1, 2), other)
        else:
            target[:, side.keys].baddbmm_(one.transpose(1, 2), other)
    content = torch.bmm(scores, keys).view(H, B, n, d)
    products = flat.view(H, B * n, S)
    position = torch.empty_like(saved.position)  # [B * n, H, d]
    write(position.transpose(0, 1), torch.bmm, products, saved.relative.transpose(0, 1))
    write(flow.grad_queries[:, side.rows], torch.add, position.view(B, n, H, d), content.permute(1, 2, 0, 3))
    products_t, asked = products.transpose(1, 2), saved.position.transpose(0, 1)
    if isinstance(side.distances, slice):
        write(flow.grad_encodings[side.distances].transpose(0, 1), torch.bmm, products_t, asked)
    else:
        flow.grad_encodings.index_add_(0, side.distances, torch.bmm(products_t, asked).transpose(0, 1))
    return content.sum((1, 2)), position.sum(0)
