"""Networks on the torch neurons of Rockpool, SynSense's library: the contract, spike for spike.

Every layer of neurons is one LIFNeuronTorch, told to fire at most once per step; the weights before
it are products in torch, as those of the "torch" back end. What makes it exact:

- that neuron leaks by exp(-dt / tau_mem), adds its input, fires at V >= threshold and subtracts:
  an infinite tau_mem is integrate-and-fire, and tau_mem is the nearest float that has the decay;
- a module is turned to float64 whole, by double(), because its constructor rounds to float32;
- LIFTorch, which has recurrent weights, decays its synaptic current before the membrane hears it,
  so no time constant makes that a sum of weights: recurrent networks are refused;
- it gives back the state of the first row of a batch only, so rows lie side by side as neurons;
- delays are made here, between the layers: Rockpool has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spikerl.backends.base import (
    Capabilities,
    Session,
    capability_problems,
    refuse_options,
    require_runnable,
    self_tested,
)
from spikerl.backends.rockpool_imports import importing
from spikerl.network import FloatArray, Layer, NeuronLayer, Recording, SpikingNetwork

if TYPE_CHECKING:
    from torch import Tensor

NEVER = 1e300  # threshold of a read-out


class RockpoolBackend:
    """Rockpool's LIFNeuronTorch in float64 on the CPU."""

    name = "rockpool"
    capabilities = Capabilities(
        resets=frozenset({"subtract"}), recurrent=False, refractory=False, v_min=False
    )

    def problems(self, network: SpikingNetwork) -> list[str]:
        """Every reason this network cannot run here; empty if it can."""
        return capability_problems(self.capabilities, network)

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Session:
        """A session; it has no options and no randomness. Raises UnsupportedNetwork."""
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options)
        return self_tested(RockpoolSession(network, batch_size), self.capabilities)


class RockpoolSession(Session):
    """A network on Rockpool's neurons, with its state."""

    def __init__(self, network: SpikingNetwork, batch_size: int) -> None:
        import torch

        from spikerl.backends.torch import linear_map

        self._cells: list[_Cell] = []
        layers: list[Layer] = []
        maps: list[Callable[[Tensor], Tensor]] = []
        with torch.inference_mode():
            for layer in network.layers:
                maps.append(linear_map(layer, torch.device("cpu"), torch.float64))
                if isinstance(layer, NeuronLayer):
                    self._cells.append(_Cell(layer, maps, batch_size, network.dt_ms / 1000))
                    maps = []
                    decay = self._cells[-1].decay()
                    if not np.array_equal(decay, np.broadcast_to(layer.decay, decay.shape)):
                        layer = replace(layer, decay=decay)
                layers.append(layer)
        super().__init__(
            RockpoolBackend.name, SpikingNetwork(tuple(layers), network.dt_ms), batch_size
        )

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        import torch

        # forked, because LIFNeuronTorch draws noise of zero size from torch's generator
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            steps, rows, _ = drive.shape
            constant = drive.strides[0] == 0
            x = torch.tensor(drive[:1] if constant else drive)
            trains = []
            for cell in self._cells:
                current = cell.current(x)
                fired, x = cell.run(current.expand(steps, rows, -1))
                if cell.spiking:
                    trains.append(fired)
            return Recording(
                counts=tuple(s.sum(0).numpy().astype(np.int64) for s in trains),
                potentials=tuple(cell.v[:rows].numpy().copy() for cell in self._cells),
                sim_steps=steps,
                spikes=tuple(s.numpy().astype(np.bool_) for s in trains) if record_spikes else None,
            )

    def simulate_alone(self, steps: int) -> None:
        """Send a constant current through Rockpool's neurons and do nothing else."""
        import torch

        self._check_open()
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            x = torch.ones((1, self.batch_size, self.network.n_in), dtype=torch.float64)
            for cell in self._cells:
                drive = cell.current(x).expand(steps, -1, -1).reshape(1, steps, -1)
                x = cell.neurons(drive)[0].reshape(steps, self.batch_size, -1).double()

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        for cell in self._cells:
            cell.reset(slice(None) if rows is None else rows)

    def _close(self) -> None:
        self._cells = []


class _Cell:
    """One layer of neurons, behind the maps that lead to it.

    neurons: LIFNeuronTorch of batch_size * n neurons, row after row.
    sent:    [delay_steps, batch_size, n] spikes that are on their way, oldest first.
    """

    def __init__(
        self,
        layer: NeuronLayer,
        maps: list[Callable[[Tensor], Tensor]],
        batch_size: int,
        dt: float,
    ) -> None:
        import torch

        with importing("rockpool"):
            from rockpool.nn.modules import LIFNeuronTorch

        self._maps = maps
        self._shape = (batch_size, layer.n_out)
        self.spiking = layer.spiking

        def tiled(values: FloatArray) -> Tensor:
            return torch.tensor(np.broadcast_to(values, self._shape).reshape(-1).copy())

        self.neurons = LIFNeuronTorch(
            shape=(batch_size * layer.n_out,), dt=dt, max_spikes_per_dt=torch.tensor(1.0)
        ).double()
        self.neurons.tau_mem.data = tiled(tau_of(layer.decay, dt))
        self.neurons.threshold.data = tiled(layer.v_threshold if layer.spiking else np.array(NEVER))
        self._start = tiled(layer.v_init).reshape(self._shape)
        self.neurons.vmem = self._start.reshape(-1).clone()
        self.sent = torch.zeros((layer.delay_steps, *self._shape), dtype=torch.float64)

    def decay(self) -> FloatArray:
        """The decays that the neurons really have: [n]."""
        import torch

        found: FloatArray = torch.exp(-self.neurons.dt / self.neurons.tau_mem.data).numpy()
        return found[: self._shape[1]]

    @property
    def v(self) -> Tensor:
        """[batch_size, n] potentials."""
        v: Tensor = self.neurons.vmem.reshape(self._shape)
        return v

    def current(self, x: Tensor) -> Tensor:
        """W x + b for what the layer hears, x [T, B, n_in]; returns [T, B, n]."""
        flat = x.reshape(-1, x.shape[2])
        for f in self._maps:
            flat = f(flat)
        return flat.reshape(*x.shape[:2], -1)

    def run(self, current: Tensor) -> tuple[Tensor, Tensor]:
        """The spikes [T, B, n] of the first rows, and those which the next layer hears."""
        import torch

        steps, rows, _ = current.shape
        before = self.v[rows:].clone()  # rows that do not run stay as they are
        drive = torch.zeros((steps, *self._shape), dtype=torch.float64)
        drive[:, :rows] = current
        fired = self.neurons(drive.reshape(1, steps, -1))[0].reshape(steps, *self._shape)[:, :rows]
        self.v[rows:] = before
        if not len(self.sent):
            return fired, fired.double()
        flow = torch.cat([self.sent[:, :rows], fired.double()])
        self.sent[:, :rows] = flow[steps:]
        return fired, flow[:steps]

    def reset(self, rows: Any) -> None:
        """Put rows back to their first state: a mask [batch_size] or a slice."""
        import torch

        with torch.inference_mode():
            chosen = rows if isinstance(rows, slice) else torch.tensor(rows)
            self.v[chosen] = self._start[chosen]
            self.sent[:, chosen] = 0.0


def tau_of(decay: FloatArray, dt: float) -> FloatArray:
    """The time constants whose exp(-dt / tau) comes closest to the decays; infinite for 1."""
    import torch

    found = np.full(decay.shape, np.inf)
    leaky = decay < 1
    tau = -dt / np.log(decay[leaky])
    near = tau * (1 + np.arange(-4, 5)[:, None] * 2.0**-52)  # the floats around
    got = torch.exp(-dt / torch.tensor(near)).numpy()
    best = np.abs(got - decay[leaky]).argmin(0)
    found[leaky] = near[best, np.arange(near.shape[1])]
    return found
