"""dry_run(): what a Xylo chip would decide, by its own rules, and what each cause takes from it.

Imports numpy and the core; no simulator: the rules are those of xylo_core.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from spikerl.backends.xylo_chip import AUDIO_2, Chip, Resources
from spikerl.backends.xylo_core import HIGHEST, LOWEST, CoreRecording, simulate_core
from spikerl.backends.xylo_host import check_read_out, potentials, sent
from spikerl.backends.xylo_plan import EVENT, Plan, capabilities_of, plan, problems
from spikerl.errors import UnsupportedNetwork
from spikerl.network import FloatArray, Recording, SpikingNetwork
from spikerl.reference import simulate
from spikerl.statistics import Estimate, mean, share

if TYPE_CHECKING:
    from spikerl.agent import SpikingAgent
    from spikerl.preprocessing import Observation


@dataclass(frozen=True, eq=False)
class DryRun:
    """An agent under the rules of a Xylo chip; prints as a few lines.

    network:   the effective network: the chip's numbers under the contract.
    resources: what it takes of the chip.
    rounding, rules, both: decisions of the effective network against the agent's own network, of
               the chip against the effective network, and of the chip against the agent's own
               network: the share of equal ones, or for continuous actions their mean absolute
               difference in % of the range.
    continuous: which of the two it is.
    rates:     by hidden layer, the mean difference in spikes per step of the chip and the
               effective network.
    bursts:    share of a hidden neuron's steps in which it fires more than once.
    saturated: share of the steps in which a membrane stands at an end of its 16 bits.
    """

    network: SpikingNetwork
    resources: Resources
    rounding: Estimate
    rules: Estimate
    both: Estimate
    continuous: bool
    rates: tuple[float, ...]
    bursts: float
    saturated: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the network."""
        found: dict[str, Any] = {
            name: asdict(getattr(self, name)) for name in ("rounding", "rules", "both")
        }
        found |= {
            "chip": self.resources.chip.name,
            "uses": [asdict(u) for u in self.resources.uses],
        }
        names = ("continuous", "rates", "bursts", "saturated")
        return found | {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        unit = "mean difference of the actions, % of their range" if self.continuous else "equal, %"
        lines = [str(self.resources), f"decisions of {self.both.n} observations ({unit}):"]
        for text, e in (
            ("chip against the agent's network", self.both),
            ("of which: rounded numbers against the agent's network", self.rounding),
            ("of which: the chip's rules against the contract, same numbers", self.rules),
        ):
            value, low, high = (
                x * (1 if self.continuous else 100) for x in (e.value, e.low, e.high)
            )
            lines.append(f"  {text}: {value:.1f} [{low:.1f}, {high:.1f}]")
        rates = ", ".join(f"{rate:.4f}" for rate in self.rates)
        lines.append(f"  spikes per neuron and step that differ, by layer: {rates}")
        lines.append(
            f"  steps with several spikes: {self.bursts:.2%}, with a saturated membrane: "
            f"{self.saturated:.2%}"
        )
        return "\n".join(lines)


def dry_run(
    agent: SpikingAgent,
    observations: Observation,
    *,
    chip: Chip = AUDIO_2,
    event: float = EVENT,
    sim_steps: int | None = None,
    seed: int = 0,
) -> DryRun:
    """Decide on observations [B, ...] as a chip would, and as the contract would.

    event: as for compile().  sim_steps: steps per decision, the agent's own if None.
    seed:  of the encoder.
    Raises UnsupportedNetwork with every problem.
    """
    if found := problems(agent.network, chip, capabilities_of(chip)):
        raise UnsupportedNetwork(chip.name, found)
    planned = plan(agent.network, chip, event)
    steps = agent.sim_steps if sim_steps is None else sim_steps
    rows = agent.preprocessing(observations)
    drive = agent.encoder.encode(rows, steps, np.random.default_rng(seed))
    core, chips = run(planned, drive)
    nearest, asked = (simulate(net, drive) for net in (planned.effective, agent.network))
    chosen = [_actions(agent, recording) for recording in (chips, nearest, asked)]

    def compared(one: NDArray[Any], other: NDArray[Any]) -> Estimate:
        from spikerl.metrics import percent_error

        if isinstance(agent.action_space, spaces.Box):
            return mean(percent_error(one, other, agent.action_space))
        return share((one == other).reshape(len(one), -1).all(axis=1))

    hidden = len(planned.hidden)
    pairs = zip(chips.counts[:hidden], nearest.counts[:hidden], strict=True)
    return DryRun(
        network=planned.effective,
        resources=planned.resources,
        rounding=compared(chosen[1], chosen[2]),
        rules=compared(chosen[0], chosen[1]),
        both=compared(chosen[0], chosen[2]),
        continuous=isinstance(agent.action_space, spaces.Box),
        rates=tuple(float(np.abs(a - b).mean()) / steps for a, b in pairs),
        bursts=float((core.spikes > 1).mean()),
        saturated=float(((core.v <= LOWEST) | (core.v >= HIGHEST)).mean()),
    )


def run(planned: Plan, drive: FloatArray) -> tuple[CoreRecording, Recording]:
    """A drive [T, B, n_in] from the start: every slot of the chip, and what the host reads."""
    steps, rows, n = drive.shape
    events, _ = sent(planned, drive, np.zeros((rows, n)), np.ones(rows, dtype=np.bool_))
    core = simulate_core(planned.core, events)
    if not planned.effective.readout.spiking:
        for row in range(rows):
            check_read_out(core.v_out[:, row].T.tolist(), core.i_out[:, row].T.tolist())
    fired = core.spikes_out.sum(axis=0)
    membranes = core.v_out[-1].astype(np.float64)
    output = potentials(planned, membranes, fired, np.full(rows, steps))
    pairs = list(zip(planned.hidden, planned.scales[:-1], strict=True))
    counts = [core.spikes[:, :, place].sum(axis=0) for place, _ in pairs]
    if planned.effective.readout.spiking:
        counts.append(fired)
    inner = [core.v[-1][:, place] / scale for place, scale in pairs]
    return core, Recording(tuple(counts), (*inner, output), steps)


def _actions(agent: SpikingAgent, recording: Recording) -> NDArray[Any]:
    values = agent.decoder.values(recording)
    return agent.decoder.action(values, True, np.random.default_rng(0))
