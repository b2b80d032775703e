"""fire_stack(): a stack of dense layers as one differentiable function. Imports torch, kernels.

One node of the graph for all layers, in which some rows at a time go through all of them, forward
as well as backward: what a layer leaves for the next is still in a near cache, and of all that
happens at every step only the potentials are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spikerl.nn import kernels
from spikerl.nn.firing import delayed, fire, joined
from spikerl.nn.surrogates import Surrogate

NUMBERS = 262_144  # of one array of a chunk, [T, rows, N]: 1 MiB
PARTS = 5  # of a layer: weight [N, n_in], bias, decay, threshold and v_init [N]

# glibc returns freed memory to the system when more is free than twice the largest block that was
# mapped and freed so far, and then every pass fetches its arrays anew, page by page: up to a third
# of its time. The largest block that counts, never touched, raises that to 64 MiB.
np.empty((32 << 20) - (1 << 16), np.uint8)

Numbers = Sequence[Tensor]


@dataclass(frozen=True)
class Rule:
    """What a layer does beside its numbers; see fire()."""

    zero: bool
    surrogate: Surrogate
    detach_reset: bool
    delay_steps: int


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


def fire_in_turn(
    x: Tensor, layers: Sequence[Numbers], rules: Sequence[Rule], sim_steps: int
) -> Tensor:
    """The same layer by layer, which can be differentiated twice."""
    late, rows = 0, x.shape[1]
    for (weight, bias, decay, theta, start), rule in zip(layers, rules, strict=True):
        x, counts, _ = fire(
            torch.nn.functional.linear(delayed(x, late, sim_steps), weight, bias),
            start.expand(rows, -1),
            decay,
            theta,
            sim_steps=sim_steps,
            zero=rule.zero,
            surrogate=rule.surrogate,
            detach_reset=rule.detach_reset,
            counted=sim_steps - rule.delay_steps,
        )
        late = rule.delay_steps
    return counts


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rules: tuple[Rule, ...], sim_steps: int, *numbers: Tensor
    ) -> Tensor:
        rows = x.shape[1]
        widths = [len(weight) for weight in numbers[::PARTS]]
        counts = x.new_zeros((rows, widths[-1]))
        kept = [x.new_empty(rows * sim_steps * width) for width in widths]
        parts = list(_parted(x, rules, sim_steps, numbers))
        for chunks in parts:
            for chunk in chunks.each(x.detach(), kept, counts):
                chunks.forward(chunk)
        ctx.save_for_backward(x, *numbers, *kept)
        ctx.rules, ctx.sim_steps, ctx.parts = rules, sim_steps, parts
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
            given = iter(torch.autograd.grad(counts, inputs, g_counts, create_graph=True))
            g_x, *found = [next(given) if want else None for want in wanted]
            return g_x, None, None, *found
        g_x, *found = [
            torch.zeros_like(part) if want else None
            for part, want in zip((x, *numbers), wanted, strict=True)
        ]
        kept, g_counts = ctx.saved_tensors[1 + n :], g_counts.contiguous()
        for chunks in ctx.parts:
            chunks.learn(found)
            for chunk in chunks.each(x.detach(), kept, g_counts):
                chunks.backward(chunk, g_x)
            chunks.add_decays()
        return g_x, None, None, *found


_apply: Any = _Stack.apply


def _by_layer(values: Sequence[Any]) -> list[Sequence[Any]]:
    """The PARTS of each layer."""
    return [values[k : k + PARTS] for k in range(0, len(values), PARTS)]


def _parted(
    x: Tensor, rules: tuple[Rule, ...], sim_steps: int, numbers: Sequence[Tensor]
) -> Iterator[_Chunks]:
    """Chunks of a size at which rows can be joined, and what is left as one more of another."""
    rows = x.shape[1]
    size = max(1, NUMBERS // (sim_steps * max(len(weight) for weight in numbers[::PARTS])))
    size = max(1, min(rows, 1 << (size.bit_length() - 1)))
    whole = rows - rows % size
    for first, end, each in ((0, whole, size), (whole, rows, rows - whole)):
        if first < end:
            layers = []
            for k, (parts, rule) in enumerate(zip(_by_layer(numbers), rules, strict=True)):
                steps, last = sim_steps if k else len(x), k == len(rules) - 1
                layers.append(_Layer(parts, rule, sim_steps, each, steps, last))
            yield _Chunks(layers, first, end, each)


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
    """Rows first to end of a stack, in chunks of `size`; the layers' arrays serve one at a time."""

    def __init__(self, layers: list[_Layer], first: int, end: int, size: int) -> None:
        self.layers, self.first, self.end, self.size = layers, first, end, size

    def each(self, x: Tensor, kept: Sequence[Tensor], counts: Tensor) -> Iterator[_Chunk]:
        """The chunks, one after the other.

        kept: potentials of all rows and layers, flat; those of a chunk lie together.
        """
        last = self.layers[-1]
        tally = counts[self.first : self.end].numpy().reshape(-1, *last.shape)
        potentials = [
            layer.potentials(flat, self.first, self.end)
            for layer, flat in zip(self.layers, kept, strict=True)
        ]
        for k, start in enumerate(range(self.first, self.end, self.size)):
            rows = slice(start, start + self.size)
            yield _Chunk(rows, x[:, rows].flatten(0, 1), [each[k] for each in potentials], tally[k])

    def forward(self, chunk: _Chunk) -> None:
        """Fills the potentials and counts of a chunk."""
        heard = chunk.heard
        for layer, potentials in zip(self.layers, chunk.potentials, strict=True):
            layer.forward(heard, potentials, chunk)
            heard = layer.onward.heard

    def learn(self, found: Sequence[Tensor | None]) -> None:
        """Gradients are to be added to `found`, PARTS of each layer."""
        for layer, parts in zip(self.layers, _by_layer(found), strict=True):
            layer.learn(parts)

    def backward(self, chunk: _Chunk, g_x: Tensor | None) -> None:
        """Adds the gradients of a chunk; that of x is put into g_x."""
        g_spikes: np.ndarray | None = None
        for k in range(len(self.layers) - 1, 0, -1):
            layer, before = self.layers[k], self.layers[k - 1]
            before.fire_again(chunk.potentials[k - 1], chunk)
            layer.backward(before.onward.heard, chunk.potentials[k], chunk, g_spikes)
            torch.mm(layer.flat, layer.weight, out=before.onward.heard)
            g_spikes = before.onward.gradient()
        first = self.layers[0]
        first.backward(chunk.heard, chunk.potentials[0], chunk, g_spikes)
        if g_x is not None:
            given = torch.mm(first.flat, first.weight)
            g_x[:, chunk.rows] = given.view(len(g_x), self.size, -1)

    def add_decays(self) -> None:
        """The gradients of decays, after the last chunk."""
        for layer in self.layers:
            layer.add_decay()


class _Passage:
    """What a layer sends and the next one hears: spikes, or the gradient of them on the way back.

    delay: steps by which they are heard later.
    """

    def __init__(self, sim_steps: int, delay: int, shape: tuple[int, int], width: int) -> None:
        self.sim_steps, self.delay = sim_steps, delay
        self.room = np.empty((sim_steps + delay, *shape), np.float32)
        self.sent = self.room[delay:]
        self.heard = torch.from_numpy(self.room[:sim_steps]).view(-1, width)
        self.rows: slice | None = None  # whose spikes these are

    def spikes(self, rows: slice) -> np.ndarray:
        """Where the spikes of a chunk of rows are to be sent to, [T, *shape]."""
        self.room[: self.delay] = 0.0
        self.rows = rows
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
        self,
        parts: Sequence[Tensor],
        rule: Rule,
        sim_steps: int,
        size: int,
        steps: int,
        last: bool,
    ) -> None:
        self.weight, self.bias, *others = (part.detach() for part in parts)
        self.sim_steps, self.rule = sim_steps, rule
        self.width = len(self.weight)
        self.shape, many = joined(size, self.width)
        self.decay, self.theta, self.start = (_tiled(part.numpy(), many) for part in others)
        self.counted = sim_steps - rule.delay_steps if last else 0
        self.current = np.empty((steps, *self.shape), np.float32)  # or its gradient
        self.flat = torch.from_numpy(self.current).view(-1, self.width)
        self.v = np.empty(self.shape, np.float32)  # or its gradient
        way = (0, 0) if last else (sim_steps, rule.delay_steps)
        self.onward = _Passage(*way, self.shape, self.width)

    def potentials(self, flat: Tensor, first: int, end: int) -> np.ndarray:
        """Those of the rows first to end, chunk by chunk: [chunks, T, *shape]."""
        each = self.sim_steps * self.width
        return flat[first * each : end * each].numpy().reshape(-1, self.sim_steps, *self.shape)

    def forward(self, heard: Tensor, potentials: np.ndarray, chunk: _Chunk) -> None:
        """Sends spikes onward for what is heard; potentials are filled, counts added to."""
        torch.addmm(self.bias, heard, self.weight.t(), out=self.flat)
        self.v[:] = self.start
        kernels.forward(
            self.current,
            self.v,
            self.decay,
            self.theta,
            int(self.rule.zero),
            self.counted,
            self.onward.spikes(chunk.rows),
            potentials,
            chunk.counts if self.counted else self.v,
        )

    def fire_again(self, potentials: np.ndarray, chunk: _Chunk) -> None:
        """Sends the spikes of forward() once more, from the potentials that were kept."""
        if self.onward.rows != chunk.rows:
            kernels.fired(potentials, self.theta, self.onward.spikes(chunk.rows))

    def learn(self, found: Sequence[Tensor | None]) -> None:
        """Gradients are to be added to `found`."""
        self.g_weight, self.g_bias, self.g_decay, _, self.g_start = found
        self.g_decays = np.zeros_like(self.decay)
        self.starts = _tiled(self.start, self.shape[0]).reshape(self.shape)

    def backward(
        self,
        heard: Tensor,
        potentials: np.ndarray,
        chunk: _Chunk,
        g_spikes: np.ndarray | None,
    ) -> None:
        """Adds to the gradients; g_spikes: None for the last layer, which has those of counts."""
        self.v.fill(0.0)
        if len(self.current) == 1:
            self.current.fill(0.0)  # it is added up over time
        kernels.backward(
            self.onward.sent if g_spikes is None else g_spikes,
            chunk.counts if self.counted else self.v,
            self.counted,
            self.v,
            potentials,
            self.starts,
            self.decay,
            self.theta,
            int(self.rule.zero),
            self.rule.surrogate.code,
            self.rule.surrogate.slope,
            int(self.rule.detach_reset),
            self.current,
            self.g_decays,
            int(self.g_decay is not None),
        )
        if self.g_weight is not None:
            self.g_weight.addmm_(self.flat.t(), heard)
        if self.g_bias is not None:
            self.g_bias += self.flat.sum(0)
        if self.g_start is not None:
            self.g_start += torch.from_numpy(self.v).view(-1, self.width).sum(0)

    def add_decay(self) -> None:
        """The gradient of the decays, after the last chunk."""
        if self.g_decay is not None:
            self.g_decay += torch.from_numpy(self.g_decays).view(-1, self.width).sum(0)


def _tiled(values: np.ndarray, many: int) -> np.ndarray:
    found = np.empty((many, len(values)), values.dtype)
    found[:] = values
    return found.reshape(-1)
