"""distill(): a converted agent trained further, on what its source does. Imports torch and SB3.

The student is the spiking network itself, under its own rules (steps, reset, delays, weight bits),
trained through surrogate gradients; what it is taught on are the states it meets when it acts
(DAgger, Ross et al. 2011).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from spikerl.agent import SpikingAgent
from spikerl.conversion import fidelity
from spikerl.conversion import observations as observing
from spikerl.conversion.build import rounded
from spikerl.conversion.candidate import Candidate, action_quality
from spikerl.conversion.imitation import imitation
from spikerl.conversion.sources import Source, open_source
from spikerl.conversion.verification import verify
from spikerl.decoding import FinalPotential
from spikerl.encoding import ConstantCurrent
from spikerl.errors import ConversionError, SpikerlError, checked_seed, checked_whole
from spikerl.network import Dense, FloatArray, SpikingNetwork
from spikerl.nn.layer import SpikingLayer, straight_through
from spikerl.nn.stack import SpikingStack

# Narrow, and the reset left out of the gradient: with the wide surrogate of training from scratch
# the error grows again after some epochs.
NEURON = {"surrogate": "arctan", "slope": 4.0, "detach_reset": True}
CHECKS = 40  # times that the student is judged
KEPT = 0.2  # share of the rows it is judged on, and never taught
CLIP = 1.0  # norm of the gradient


@dataclass(frozen=True)
class Lesson:
    """The settings of distill(); see there."""

    rounds: int
    updates: int
    learning_rate: float
    batch_size: int
    seed: int


class Student(nn.Module):
    """The spiking layers of a network and its read-out, as torch modules.

    bits: of the weights of each layer, read-out included, None for any numbers; gradients pass the
          rounding as it is.
    """

    def __init__(self, network: SpikingNetwork, sim_steps: int, bits: Sequence[int | None]) -> None:
        super().__init__()
        self.bits = bits
        layers = [
            SpikingLayer.of(layer, weight_bits=few, **NEURON)  # type: ignore[arg-type]
            for layer, few in zip(network.spiking_layers, self.bits, strict=False)
        ]
        self.stack = SpikingStack(layers, sim_steps)
        for layer in layers:
            layer.learn_v_init()
        last = network.readout
        assert isinstance(last, Dense)
        self.readout = nn.Linear(last.n_in, last.n_out)
        with torch.no_grad():
            self.readout.weight.copy_(torch.tensor(last.weight))
            self.readout.bias.copy_(torch.tensor(last.bias))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Values [B, n] for rows [B, n_in]."""
        weight: torch.Tensor = self.readout.weight
        bias: torch.Tensor | None = self.readout.bias
        if self.bits[-1] is not None:
            weight, bias = straight_through(weight, bias, self.bits[-1])
        return nn.functional.linear(self.stack(rows), weight, bias)

    @torch.no_grad()
    def values(self, rows: FloatArray) -> FloatArray:
        """Values [B, n] as float64, without gradients."""
        parts = np.array_split(rows, -(-len(rows) // 500))
        found = [self(torch.as_tensor(part, dtype=torch.float32)).numpy() for part in parts]
        return np.concatenate(found).astype(np.float64)

    def network(self) -> SpikingNetwork:
        """The network it has become."""
        weight, bias = (
            part.detach().numpy().astype(np.float64)
            for part in (self.readout.weight, self.readout.bias)
        )
        layers = (*self.stack.to_layers(), Dense(weight, bias, spiking=False))
        return SpikingNetwork(tuple(map(rounded, layers, self.bits)))


def distill(
    agent: SpikingAgent,
    teacher: Any,
    *,
    observations: Any = None,
    env: Any = None,
    n_observations: int = 50_000,
    rounds: int = 4,
    updates: int = 20_000,
    learning_rate: float = 4e-3,
    batch_size: int = 256,
    seed: int = 0,
    on_progress: Callable[[float, float], None] | None = None,
    **options: Any,
) -> SpikingAgent:
    """Train a converted agent on its source's values until it decides like it in few steps.

    agent:   what convert() made of the teacher; it is left as it is.
    teacher: as convert()'s source; env, observations, options (vecnormalize, algo,
             observation_space, action_space) as there.
    rounds:  the first teaches on states the teacher meets, each further one adds n_observations /
             rounds states that the student meets, acting as it then would. Given observations
             only, all rounds teach on these.
    updates: of the weights in all, Adam with a learning rate that falls to zero along a cosine.
    on_progress: called with the share done and the best agreement (or error in %) so far.

    The student kept is the best one on a fifth of the states that it is never taught on; the report
    is of held-out states beyond those. The same arguments give the same agent.
    Raises ConversionError for a network that cannot be trained, with the reason, and as convert().
    """
    problems = checked_whole("rounds", rounds) + checked_whole("updates", updates)
    problems += checked_whole("batch_size", batch_size) + checked_seed(seed)
    problems += checked_whole("n_observations", n_observations, least=observing.FEWEST)
    if isinstance(learning_rate, bool) or not 0 < learning_rate < math.inf:
        problems.append(f"learning_rate must be > 0, found {learning_rate!r}")
    problems += _untrainable(agent)
    if problems:
        raise ConversionError("this cannot be distilled", problems)
    origin = open_source(teacher, env, {**_NO_OPTIONS, **options})
    if origin.stack.head.n_values != agent.decoder.head.n_values:
        raise ConversionError(
            f"the teacher gives {origin.stack.head.n_values} values, the agent "
            f"{agent.decoder.head.n_values}: it was converted from another source"
        )
    sets, watch = _observe(origin, observations, env, n_observations, seed)
    verify(origin, sets.held_out)
    lesson = Lesson(rounds, updates, learning_rate, batch_size, seed)
    rows = origin.preprocessing(sets.calibration)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            student = Student(agent.network, agent.sim_steps, _weight_bits(agent))
        except SpikerlError as error:
            raise ConversionError(f"this cannot be distilled: {error}") from error
        _teach(student, origin, rows, watch, lesson, on_progress)
    network = student.network()
    trial = fidelity.Trial(
        source=origin.stack,
        made=Candidate(
            origin.stack,
            [],
            [],
            agent.encoder,
            network,
            agent.decoder,
            None,
            rounded=any(student.bits),
        ),
        action_space=origin.action_space,
        sim_steps=agent.sim_steps,
        calibration=rows,
        held_out=origin.preprocessing(sets.held_out),
        groups=sets.groups,
        unit=sets.unit,
        seed=seed,
        trained=True,
    )
    history = {
        "rounds": rounds if watch is not None else 1,
        "updates": updates,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "seed": seed,
        "n_observations": n_observations,
        "observations": sets.origin,
    }
    return replace(
        agent,
        network=network,
        provenance={**agent.provenance, "distillation": history},
        report=fidelity.make_report(trial, []),
    )


def _weight_bits(agent: SpikingAgent) -> list[int | None]:
    """The bits of each layer's weights, read-out included, that an agent was made with."""
    recipe = agent.provenance.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else {}
    bits, n = recipe.get("weight_bits"), len(agent.network.neuron_layers)
    if isinstance(bits, list) and len(bits) == n:  # it was trained as a spiking network
        return [few if few < 32 else None for few in bits]
    if not isinstance(bits, int):
        return [None] * n
    if recipe.get("first_reset") is None:
        return [bits] * n
    # a host computes the first layer and the read-out, beside the chip
    return [None, *[bits] * (n - 2), None]


_NO_OPTIONS = dict.fromkeys(("vecnormalize", "algo", "observation_space", "action_space"))


def _untrainable(agent: SpikingAgent) -> list[str]:
    """Every reason an agent cannot be a student."""
    found = []
    if not isinstance(agent.encoder, ConstantCurrent):
        found.append(f"the encoder is {type(agent.encoder).__name__}; wanted constant current")
    if not isinstance(agent.decoder.read, FinalPotential):
        found.append(f"the decoder reads {type(agent.decoder.read).__name__}; wanted potentials")
    if not agent.network.spiking_layers:
        found.append("no layer of the network spikes: there is nothing to train")
    layers = {
        type(x).__name__ for x in agent.network.layers if x not in agent.network.neuron_layers
    }
    if layers:
        found.append(f"layers of type {', '.join(sorted(layers))} cannot be trained yet")
    return found


Watch = Callable[[Student, int, int], FloatArray]


def _observe(
    origin: Source, observations: Any, env: Any, n: int, seed: int
) -> tuple[observing.ObservationSets, Watch | None]:
    """The first states, and a function that gives those a student meets, if there is a place."""
    if observations is None and env is None:
        if origin.environment is None:
            raise ConversionError(
                "there is nothing to teach on: pass env= (an id, an environment or a VecEnv) or "
                "observations= (raw, as the environment returns them)"
            )
        env = origin.environment()
    if env is None:
        return observing.given(observations, origin.preprocessing, n, seed), None

    def watch(student: Student, wanted: int, round_seed: int) -> FloatArray:
        acting = observing.Acting(student.values, origin.stack.head)
        seen = observing.watched(acting, origin.preprocessing, env, wanted, round_seed)
        return origin.preprocessing(seen)

    if observations is not None:
        return observing.given(observations, origin.preprocessing, n, seed), watch
    return observing.collected(origin.stack, origin.preprocessing, env, n, seed), watch


def _teach(
    student: Student,
    origin: Source,
    rows: FloatArray,
    watch: Watch | None,
    lesson: Lesson,
    on_progress: Callable[[float, float], None] | None,
) -> None:
    """Leave the best student found in `student`."""
    rng = np.random.default_rng(lesson.seed)
    taught, judged = _split(rows, rng)
    loss = imitation(origin.stack.head, origin.stack.values(taught))
    continuous = isinstance(origin.action_space, spaces.Box)
    student.stack.exact = False  # judged many times: in float32, as it is taught
    optimizer = torch.optim.Adam(student.parameters(), lr=lesson.learning_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, lesson.updates)

    def quality() -> float:
        ours, theirs = student.values(judged), origin.stack.values(judged)
        return action_quality(ours, theirs, origin.stack.head, origin.action_space).value

    def tensors() -> tuple[torch.Tensor, torch.Tensor]:
        values = origin.stack.values(taught)
        return tuple(torch.as_tensor(part, dtype=torch.float32) for part in (taught, values))  # type: ignore[return-value]

    best, kept = quality(), deepcopy(student.state_dict())
    x, y = tensors()
    checks = np.linspace(0, lesson.updates, CHECKS + 1).astype(int)[1:]
    turns = np.linspace(0, lesson.updates, lesson.rounds + 1).astype(int)[1:-1]
    for update in range(1, lesson.updates + 1):
        chosen = torch.as_tensor(rng.integers(len(x), size=min(lesson.batch_size, len(x))))
        error = loss(student(x[chosen]), y[chosen])
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.step()
        falling.step()
        if update in checks:
            found = quality()
            if found <= best if continuous else found >= best:
                best, kept = found, deepcopy(student.state_dict())
            if on_progress is not None:
                on_progress(update / lesson.updates, best)
        if watch is not None and update in turns:
            met = watch(student, len(rows) // lesson.rounds, lesson.seed + 17 * update)
            new, others = _split(met, rng)
            taught, judged = np.concatenate([taught, new]), np.concatenate([judged, others])
            x, y = tensors()
            # The best so far is judged anew on the states that count from now on.
            now = deepcopy(student.state_dict())
            student.load_state_dict(kept)
            best = quality()
            student.load_state_dict(now)
    student.load_state_dict(kept)


def _split(rows: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Rows to teach on and rows to judge by: blocks of time, as neighbours are nearly equal."""
    blocks = np.array_split(rows, min(50, len(rows)))
    order = rng.permutation(len(blocks))
    n = max(1, int(KEPT * len(blocks)))
    return (
        np.concatenate([blocks[i] for i in np.sort(order[n:])]),
        np.concatenate([blocks[i] for i in np.sort(order[:n])]),
    )
