"""fire_stack(): a stack of dense layers as one differentiable function. Imports torch, kernels.

One node of the graph for all layers, in which some rows at a time go through all of them, forward
as well as backward: what a layer leaves for the next is still in a near cache, and of all that
happens at every step only the potentials are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import local
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spikerl.nn import kernels
from spikerl.nn.firing import Numbers, Rule, fire_in_turn, joined

NUMBERS = 262_144  # of one array of a chunk, [T, rows, N]: 1 MiB
PARTS = 5  # of a layer, see Numbers
ROOMS = 4  # shapes of stacks whose arrays are kept

# glibc returns freed memory to the system when more is free than twice the largest block that was
# mapped and freed so far, and then every pass fetches its arrays anew, page by page: up to a third
# of its time. The largest block that counts, never touched, raises that to 64 MiB.
np.empty((32 << 20) - (1 << 16), np.uint8)


def fire_stack(
    x: Tensor, layers: Sequence[Numbers], rules: Sequence[Rule], sim_steps: int
) -> Tensor:
    """Spike counts [B, N] of the last layer, of the spikes that arrive in time; float32, CPU.

    x:      [T, B, n_in], or [1, B, n_in] for the same at every step.
    layers: PARTS of each; no gradient goes to thresholds.
    """
    numbers = [part for layer in layers for part in layer]
    found: Tensor = _apply(x, tuple(rules), sim_steps, *numbers)
    return found


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rules: tuple[Rule, ...], sim_steps: int, *numbers: Tensor
    ) -> Tensor:
        rows, given = x.shape[1], _given(numbers, rules)
        counts = x.new_zeros((rows, len(given[-1].bias)))
        kept = [x.new_empty(rows * sim_steps * len(layer.bias)) for layer in given]
        ctx.save_for_backward(x, *numbers, *kept)
        ctx.rules, ctx.sim_steps, ctx.turn = rules, sim_steps, object()
        for chunks in _parted(x, given, sim_steps):
            chunks.begin(given, ctx.turn)
            for chunk in chunks.each(x, kept, counts):
                chunks.forward(chunk, given)
        return counts

    @staticmethod
    def backward(ctx: Any, g_counts: Tensor) -> tuple[Tensor | None, ...]:
        n = PARTS * len(ctx.rules)
        x, *numbers = ctx.saved_tensors[: 1 + n]
        wanted = [ctx.needs_input_grad[0], *ctx.needs_input_grad[3:]]
        if torch.is_grad_enabled():  # create_graph, as for TRPO's Fisher products
            # by other names, as one may depend on another, or be the same
            x, *numbers = [part.view_as(part) for part in (x, *numbers)]
            counts = fire_in_turn(x, _by_layer(numbers), ctx.rules, ctx.sim_steps)
            inputs = [part for part, want in zip((x, *numbers), wanted, strict=True) if want]
            made = iter(torch.autograd.grad(counts, inputs, g_counts, create_graph=True))
            g_x, *found = [next(made) if want else None for want in wanted]
            return g_x, None, None, *found
        g_x, *found = [
            torch.zeros_like(part) if want else None
            for part, want in zip((x, *numbers), wanted, strict=True)
        ]
        kept, given = ctx.saved_tensors[1 + n :], _given(numbers, ctx.rules)
        g_counts = g_counts.contiguous()
        asked = [_Found(*parts) for parts in _by_layer(found)]
        for chunks in _parted(x, given, ctx.sim_steps):
            chunks.begin(given, ctx.turn)
            for chunk in chunks.each(x, kept, g_counts):
                chunks.backward(chunk, given, asked, g_x)
            chunks.add_decays(asked)
        return g_x, None, None, *found


_apply: Any = _Stack.apply


class _Given(NamedTuple):
    """Of a layer: weight [N, n_in], the others [N]."""

    weight: Tensor
    bias: Tensor
    decay: Tensor
    theta: Tensor
    start: Tensor
    rule: Rule


class _Found(NamedTuple):
    """Their gradients, to be added to; None for what nobody wants."""

    weight: Tensor | None
    bias: Tensor | None
    decay: Tensor | None
    theta: Tensor | None
    start: Tensor | None


def _by_layer(values: Sequence[Any]) -> list[Sequence[Any]]:
    """The PARTS of each layer."""
    return [values[k : k + PARTS] for k in range(0, len(values), PARTS)]


def _given(numbers: Sequence[Tensor], rules: Sequence[Rule]) -> list[_Given]:
    layers = zip(_by_layer(numbers), rules, strict=True)
    return [_Given._make((*parts, rule)) for parts, rule in layers]


class _Rooms(local):
    """Arrays to work in, of the latest shapes of stacks; every thread has its own."""

    def __init__(self) -> None:
        self.kept: dict[Any, list[_Chunks]] = {}


_rooms = _Rooms()


def _parted(x: Tensor, given: Sequence[_Given], sim_steps: int) -> list[_Chunks]:
    """Chunks of a size at which rows can be joined, and what is left as one more of another."""
    steps, rows, _ = x.shape
    sizes = tuple([(len(layer.bias), layer.rule.delay_steps) for layer in given])
    size = max(1, NUMBERS // (sim_steps * max(width for width, _ in sizes)))
    size = max(1, min(rows, 1 << (size.bit_length() - 1)))
    key = (size, steps, rows, sim_steps, sizes)
    found = _rooms.kept.get(key)
    if found is None:
        whole = rows - rows % size
        found = [
            _Chunks(sizes, steps, sim_steps, first, end, each)
            for first, end, each in ((0, whole, size), (whole, rows, rows - whole))
            if first < end
        ]
        if len(_rooms.kept) == ROOMS:
            del _rooms.kept[next(iter(_rooms.kept))]
        _rooms.kept[key] = found
    return found


class _Chunk(NamedTuple):
    """Some rows of a stack at work.

    rows:       where they are in x.
    heard:      what the first layer hears, [T * size, n_in], or [size, n_in] for all steps.
    potentials: before the reset, [T, *shape] of every layer.
    counts:     [*shape] of the last layer, or their gradient.
    """

    rows: slice
    heard: Tensor
    potentials: Sequence[np.ndarray]
    counts: np.ndarray


class _Chunks:
    """Rows first to end of a stack, in chunks of `size`; the layers' arrays serve one at a time.

    sizes: neurons and delay of every layer.  steps: of x, see _Layer.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        steps: int,
        sim_steps: int,
        first: int,
        end: int,
        size: int,
    ) -> None:
        self.first, self.end, self.size = first, end, size
        self.layers = [
            _Layer(width, delay, sim_steps, size, sim_steps if k else steps, k == len(sizes) - 1)
            for k, (width, delay) in enumerate(sizes)
        ]
        self.turn: object = None  # whose numbers and spikes are in the arrays

    def begin(self, given: Sequence[_Given], turn: object) -> None:
        """Take up the numbers of a pass, unless the arrays have them from its way forward."""
        if turn is not self.turn:
            self.turn = None  # if anything goes wrong on the way
            for layer, numbers in zip(self.layers, given, strict=True):
                layer.take(numbers)
            self.turn = turn
        for layer in self.layers:
            layer.g_decay.fill(0.0)

    def each(self, x: Tensor, kept: Sequence[Tensor], counts: Tensor) -> Iterator[_Chunk]:
        """The chunks, one after the other.

        kept: potentials of all rows and layers, flat; those of a chunk lie together.
        """
        tally = counts.numpy()[self.first : self.end].reshape(-1, *self.layers[-1].shape)
        potentials = [
            layer.potentials(flat.numpy(), self.first, self.end)
            for layer, flat in zip(self.layers, kept, strict=True)
        ]
        for k, start in enumerate(range(self.first, self.end, self.size)):
            rows = slice(start, start + self.size)
            yield _Chunk(rows, x[:, rows].flatten(0, 1), [each[k] for each in potentials], tally[k])

    def forward(self, chunk: _Chunk, given: Sequence[_Given]) -> None:
        """Fills the potentials and counts of a chunk."""
        heard = chunk.heard
        for layer, numbers, potentials in zip(self.layers, given, chunk.potentials, strict=True):
            layer.forward(numbers, heard, potentials, chunk)
            heard = layer.onward.heard

    def backward(
        self, chunk: _Chunk, given: Sequence[_Given], found: Sequence[_Found], g_x: Tensor | None
    ) -> None:
        """Adds the gradients of a chunk to those found; that of x is put into g_x."""
        g_spikes: np.ndarray | None = None
        for k in range(len(self.layers) - 1, -1, -1):
            layer, potentials = self.layers[k], chunk.potentials[k]
            if k == 0:
                layer.backward(given[0], found[0], chunk.heard, potentials, chunk, g_spikes)
                break
            before = self.layers[k - 1]
            before.fire_again(chunk.potentials[k - 1], chunk)
            heard = before.onward.heard
            layer.backward(given[k], found[k], heard, potentials, chunk, g_spikes)
            g_spikes = before.onward.gradient()
            torch.mm(layer.flat, given[k].weight, out=heard)
        if g_x is not None:
            made = torch.mm(self.layers[0].flat, given[0].weight)
            g_x[:, chunk.rows] = made.view(len(g_x), self.size, -1)

    def add_decays(self, found: Sequence[_Found]) -> None:
        """The gradients of decays, after the last chunk."""
        for layer, gradients in zip(self.layers, found, strict=True):
            layer.add_decay(gradients)


class _Passage:
    """What a layer sends and the next one hears: spikes, or the gradient of them on the way back.

    delay: steps by which they are heard later.
    """

    def __init__(self, sim_steps: int, delay: int, shape: tuple[int, int], width: int) -> None:
        self.sim_steps, self.delay = sim_steps, delay
        self.room = np.empty((sim_steps + delay, *shape), np.float32)
        self.sent = self.room[delay:]
        self.heard = torch.from_numpy(self.room[:sim_steps]).view(-1, width)
        self.rows: slice | None = None  # whose spikes these are; None while they are none

    def spikes(self) -> np.ndarray:
        """Where spikes are to be sent to, [T, *shape]."""
        self.room[: self.delay] = 0.0
        self.rows = None
        return self.sent

    def gradient(self) -> np.ndarray:
        """That of what was sent, [T, *shape], when that of what was heard is in its place."""
        self.room[self.sim_steps :] = 0.0
        self.rows = None
        return self.sent


class _Layer:
    """One layer at work on chunks of `size` rows; its arrays are used again for every chunk.

    Arrays are [steps, *shape], with several rows joined to one; tensors [steps * size, N].
    steps: of its input, 1 if that is the same at every step.  last: of the stack.
    """

    def __init__(
        self, width: int, delay: int, sim_steps: int, size: int, steps: int, last: bool
    ) -> None:
        self.sim_steps, self.width = sim_steps, width
        self.shape, many = joined(size, width)
        self.decay, self.theta = np.empty((2, many * width), np.float32)
        self.start = np.empty(self.shape, np.float32)
        self.g_decay = np.zeros_like(self.decay)
        self.counted = sim_steps - delay if last else 0
        self.current = np.empty((steps, *self.shape), np.float32)  # or its gradient
        self.flat = torch.from_numpy(self.current).view(-1, width)
        self.v = np.empty(self.shape, np.float32)  # or its gradient
        way = (0, 0) if last else (sim_steps, delay)
        self.onward = _Passage(*way, self.shape, width)

    def potentials(self, flat: np.ndarray, first: int, end: int) -> np.ndarray:
        """Those of the rows first to end, chunk by chunk: [chunks, T, *shape]."""
        each = self.sim_steps * self.width
        return flat[first * each : end * each].reshape(-1, self.sim_steps, *self.shape)

    def take(self, given: _Given) -> None:
        """Other numbers than before; no spikes are those of a chunk any more."""
        wanted = (self.decay, given.decay), (self.theta, given.theta), (self.start, given.start)
        for mine, part in wanted:
            mine.reshape(-1, self.width)[:] = part.detach().numpy()
        self.onward.rows = None

    def forward(self, given: _Given, heard: Tensor, potentials: np.ndarray, chunk: _Chunk) -> None:
        """Sends spikes onward for what is heard; potentials are filled, counts added to."""
        torch.addmm(given.bias, heard, given.weight.t(), out=self.flat)
        self.v[:] = self.start
        kernels.forward(
            self.current,
            self.v,
            self.decay,
            self.theta,
            int(given.rule.zero),
            self.counted,
            self.onward.spikes(),
            potentials,
            chunk.counts if self.counted else self.v,
        )
        self.onward.rows = chunk.rows

    def fire_again(self, potentials: np.ndarray, chunk: _Chunk) -> None:
        """Sends the spikes of forward() once more, from the potentials that were kept."""
        if self.onward.rows != chunk.rows:
            kernels.fired(potentials, self.theta, self.onward.spikes())
            self.onward.rows = chunk.rows

    def backward(
        self,
        given: _Given,
        found: _Found,
        heard: Tensor,
        potentials: np.ndarray,
        chunk: _Chunk,
        g_spikes: np.ndarray | None,
    ) -> None:
        """Adds to the gradients; g_spikes: None for the last layer, which has those of counts."""
        self.v.fill(0.0)
        if len(self.current) == 1:
            self.current.fill(0.0)  # it is added up over time
        rule = given.rule
        kernels.backward(
            self.onward.sent if g_spikes is None else g_spikes,
            chunk.counts if self.counted else self.v,
            self.counted,
            self.v,
            potentials,
            self.start,
            self.decay,
            self.theta,
            int(rule.zero),
            rule.surrogate.code,
            rule.surrogate.slope,
            int(rule.detach_reset),
            self.current,
            self.g_decay,
            int(found.decay is not None),
        )
        if found.weight is not None:
            found.weight.addmm_(self.flat.t(), heard)
        if found.bias is not None:
            found.bias.add_(self.flat.sum(0))
        if found.start is not None:
            found.start.add_(torch.from_numpy(self.v).view(-1, self.width).sum(0))

    def add_decay(self, found: _Found) -> None:
        """The gradient of the decays, after the last chunk."""
        if found.decay is not None:
            found.decay.add_(torch.from_numpy(self.g_decay).view(-1, self.width).sum(0))
