"""Training a DynapseNet on chips that differ: every update is the mean over several mismatches.

Surrogate gradients through time are DynapSim's, Adam is jax's. The loss is the cross-entropy of the
classes' spike counts. A mean squared error to a target rate, as in Rockpool's tutorial, is content
once all neurons fire faster, which they learn long before they tell classes apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spikerl.dynapse.circuit import Chip
from spikerl.dynapse.net import DynapseNet, checked_raster
from spikerl.dynapse.simulation import Simulator, simulator, stacked
from spikerl.errors import SpikerlError


@dataclass(frozen=True, eq=False)
class Trained:
    """What training gave.

    net:    the net after the last update.
    losses: [updates] loss before each update.
    """

    net: DynapseNet
    losses: NDArray[np.float32]


def train(
    net: DynapseNet,
    raster: ArrayLike,
    labels: ArrayLike,
    *,
    updates: int = 400,
    learning_rate: float = 0.03,
    gain: float = 0.1,
    chips: int = 4,
    redraw_every: int = 10,
    weight_mismatch: float = 0.3,
    circuit_mismatch: float = 0.05,
    drop_spikes: float = 0.0,
    batch_size: int | None = None,
    seed: int = 0,
) -> Trained:
    """Fit the weights so that the class of a row gets the most spikes, on any chip.

    raster: [T, B, n_in] input spikes.  labels: [B] classes.
    gain:   of a spike in the softmax over classes; below 1, so that a lead of a few spikes is asked
            for and not of one.
    learning_rate: of Adam, falling linearly to 0 so that the last weights are not just any.
    chips:  mismatches per update; redrawn every redraw_every updates. 0 trains on the ideal chip.
    drop_spikes: share of input spikes left out, others in every update.
    batch_size: rows per update, drawn anew each time; None for all.
    Weights that are 0 stay 0: a synapse that is not there is not made.
    Raises SpikerlError for labels, sizes or spikes that do not fit.
    """
    x = checked_raster(raster, net.n_in)
    wanted = np.asarray(labels)
    if wanted.shape != x.shape[1:2] or wanted.dtype.kind not in "iu":
        raise SpikerlError(f"labels must be {x.shape[1]} whole numbers, found {wanted!r}")
    if ((wanted < 0) | (wanted >= net.n_classes)).any():
        raise SpikerlError(f"labels must be 0..{net.n_classes - 1}, found {np.unique(wanted)}")
    for name, value in (("updates", updates), ("redraw_every", redraw_every)):
        if value < 1:
            raise SpikerlError(f"{name} must be >= 1, found {value}")
    if not 0.0 <= drop_spikes < 1.0:
        raise SpikerlError(f"drop_spikes must be in [0, 1), found {drop_spikes!r}")
    rng = np.random.default_rng(seed)
    start, update, weights_of = _optimizer(
        simulator(net.n_in, net.n, net.dt_ms), net.n_classes, gain, learning_rate, updates
    )
    mask = (net.w_in != 0, net.w_rec != 0)
    state: Any = start((net.w_in, net.w_rec))
    rows = np.arange(x.shape[1])
    losses = []
    for i in range(updates):
        if i % redraw_every == 0:
            drawn = [
                Chip.drawn(
                    net.n_in,
                    net.n,
                    int(rng.integers(2**63)),
                    weights=weight_mismatch,
                    circuit=circuit_mismatch,
                )
                for _ in range(chips)
            ]
            now = stacked(drawn or [Chip.ideal(net.n_in, net.n)], net)
        if batch_size is not None:
            rows = rng.choice(x.shape[1], min(batch_size, x.shape[1]), replace=False)
        heard = x[:, rows]
        if drop_spikes:
            heard = heard * (rng.random(heard.shape) >= drop_spikes)
        state, loss = update(i, state, mask, now, heard.astype(np.float32), wanted[rows])
        losses.append(loss)
    found = np.asarray(losses, np.float32)
    if not np.isfinite(found).all():
        raise SpikerlError(
            f"training diverged in update {int((~np.isfinite(found)).argmax())}: lower "
            f"learning_rate, now {learning_rate}"
        )
    w_in, w_rec = weights_of(state)
    return Trained(replace(net, w_in=np.asarray(w_in), w_rec=np.asarray(w_rec)), found)


@lru_cache(maxsize=16)
def _optimizer(
    simulated: Simulator, n_classes: int, gain: float, learning_rate: float, updates: int
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Start, update and read-out of Adam on the mean loss over chips; compiled once."""
    import jax
    from jax import numpy as jnp
    from jax.example_libraries import optimizers

    response = simulated.response
    start, step, weights_of = optimizers.adam(lambda i: learning_rate * (1.0 - i / updates))

    def loss(weights: Any, chips: Any, raster: Any, labels: Any) -> Any:
        w_in, w_rec = weights

        def on_chip(chip: Any) -> Any:
            counts = response(w_in, w_rec, chip, raster).sum(0)  # [B, n]
            votes = counts.reshape(len(labels), -1, n_classes).sum(1)
            chosen = jax.nn.log_softmax(gain * votes)[jnp.arange(len(labels)), labels]
            return -chosen.mean()

        return jax.vmap(on_chip)(chips).mean()

    def update(i: Any, state: Any, mask: Any, chips: Any, raster: Any, labels: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(weights_of(state), chips, raster, labels)
        gradient = tuple(jnp.where(m, g, 0.0) for m, g in zip(mask, gradient, strict=True))
        return step(i, gradient, state), value

    return start, jax.jit(update), weights_of
