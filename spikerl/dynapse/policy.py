"""DynapsePolicy: decides by a vote of Dynap-SE2's neurons, with the predict() of SB3.

No back end: what the analogue neuron does is no SpikingNetwork. It integrates currents that decay
and adapt, resets to the dark current, and differs from neuron to neuron; a session could not write
down the network that really runs, which every back end promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spikerl.dynapse.circuit import Chip
from spikerl.dynapse.net import DynapseNet
from spikerl.dynapse.simulation import counts_by_row
from spikerl.encoding import Encoder
from spikerl.errors import SpikerlError
from spikerl.network import FloatArray


class DynapsePolicy:
    """Takes the action whose neurons fire most in sim_ms; a tie goes to the lower number.

    net:      a DynapseNet, n_classes actions.
    encoder:  one of spikerl.encoding that makes spikes.
    sim_ms:   time of one decision; the net starts from rest.
    interval_ms: between two spikes of an input at full intensity; 5 is 200 Hz.
    chips:    on which chip each row decides, in turn: row i on chips[i % len(chips)]. None: ideal.
    seed:     of a random encoder.
    """

    def __init__(
        self,
        net: DynapseNet,
        encoder: Encoder,
        *,
        sim_ms: float = 50.0,
        interval_ms: float = 5.0,
        chips: Sequence[Chip] | None = None,
        seed: int | None = None,
    ) -> None:
        self.net = net
        self.encoder = encoder
        self.chips = [Chip.ideal(net.n_in, net.n)] if chips is None else list(chips)
        self._settings: dict[str, Any] = {
            "sim_ms": sim_ms,
            "interval_ms": interval_ms,
            "seed": seed,
        }
        self._every = round(interval_ms / net.dt_ms)
        self._ticks = round(sim_ms / interval_ms)
        if self._every < 1 or self._ticks < 1 or not self.chips:
            raise SpikerlError(
                f"sim_ms={sim_ms}, interval_ms={interval_ms}, dt_ms={net.dt_ms}: wanted sim_ms >= "
                "interval_ms >= dt_ms, and at least one chip"
            )
        self._rng = np.random.default_rng(seed)

    def with_net(self, net: DynapseNet) -> DynapsePolicy:
        """The same policy with other weights, on the same chips."""
        return DynapsePolicy(net, self.encoder, chips=self.chips, **self._settings)

    def on(self, chips: Sequence[Chip]) -> DynapsePolicy:
        """The same policy on other chips."""
        return DynapsePolicy(self.net, self.encoder, chips=chips, **self._settings)

    def raster(self, observations: ArrayLike) -> FloatArray:
        """Input spikes [T, B, n_in] of observations [B, n]: every interval one step of the encoder.

        All spikes of an interval come together, so that inhibition meets what it is to cancel.
        """
        x = np.asarray(observations, np.float64)
        if x.ndim != 2 or self.encoder.n_channels(x.shape[1]) != self.net.n_in:
            raise SpikerlError(
                f"observations of shape {x.shape} do not give the net's {self.net.n_in} channels"
            )
        ticks = self.encoder.encode(x, self._ticks, self._rng)
        if ((ticks != 0) & (ticks != 1)).any():
            raise SpikerlError(f"{type(self.encoder).__name__} gives currents, wanted spikes")
        raster = np.zeros((self._ticks * self._every, *ticks.shape[1:]))
        raster[:: self._every] = ticks
        return raster

    def values(self, observations: ArrayLike) -> NDArray[np.int64]:
        """Spikes for each action: [B, n_classes]."""
        raster = self.raster(observations)
        chips = [self.chips[i % len(self.chips)] for i in range(raster.shape[1])]
        return self.net.votes(counts_by_row(self.net, raster, chips))

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.int64], Any]:
        """SB3's predict(): actions [B] of observations [B, n], or one action of one; and the state.

        Nothing is remembered. Raises SpikerlError for deterministic=False: a vote is not sampled.
        """
        if not deterministic:
            raise SpikerlError("a DynapsePolicy has no distribution to sample from")
        x = np.asarray(observation)
        actions = self.values(x.reshape(-1, x.shape[-1])).argmax(1)
        return (actions if x.ndim > 1 else actions[0]), state
