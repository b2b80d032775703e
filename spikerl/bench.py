"""Decisions per CPU-second of every back end, next to SB3's predict() and a plain torch loop.

Imports numpy and the back ends; torch and SB3 only while measuring, and only where installed.
All contenders take turns in one run, so that a busy machine slows all of them; of the rounds each
contender keeps its best, the one least disturbed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np

from spikerl.backends import available, get, ready
from spikerl.backends.base import Session, under_rules
from spikerl.errors import BackendError, SpikerlError, problems_of
from spikerl.network import Dense, FloatArray, SpikingNetwork
from spikerl.process import one_thread, resident_bytes

NETS = ("4-16-16-2", "8-64-64-4", "8-256-256-4")
SB3, TORCH_LOOP, CPU_FLOAT32 = "sb3 predict", "torch loop", "cpu float32"
ALONE = ", steps alone"  # of a simulator, without input, reset and read-out: the least there can be

Decide = Callable[[], Any]


@dataclass(frozen=True)
class BenchRow:
    """One contender on one net, T and batch; a ratio is None where its denominator is missing.

    mean_rate: spikes per neuron and step, None for SB3, which has none.
    """

    net: str
    sim_steps: int
    batch: int
    backend: str
    decisions_per_cpu_second: float
    ratio_to_sb3: float | None
    ratio_to_torch_loop: float | None
    mean_rate: float | None


@dataclass(frozen=True)
class BenchResult:
    """The rows of a bench, and in plain words how they came about and what is missing."""

    rows: tuple[BenchRow, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, ready for JSON."""
        return {"rows": [asdict(row) for row in self.rows], "notes": list(self.notes)}


@dataclass(frozen=True)
class MemoryGrowth:
    """Resident memory of the process in bytes before and after many decisions."""

    decisions: int
    rss_before: int
    rss_after: int

    @property
    def growth(self) -> int:
        """Bytes that were added."""
        return self.rss_after - self.rss_before


def run_bench(
    *,
    sim_steps: Sequence[int] = (32, 100),
    batch_sizes: Sequence[int] = (1, 64),
    nets: Sequence[str] = NETS,
    backends: Sequence[str] | None = None,
    seconds: float = 6.0,
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> BenchResult:
    """Measure every contender on random ReLU nets with data-normalised thresholds.

    nets:     layer sizes, "inputs-hidden-...-outputs".
    backends: names; None takes all that are usable here.
    seconds:  CPU time per combination of net, T and batch, shared by all contenders.
    quick:    one call per contender; the figures then only show that everything runs.
    progress: called with a line of text before each combination.
    Raises BackendError for a back end that cannot be used, SpikerlError for a net that is none.
    """
    chosen, notes = _contenders(backends)
    rows: list[BenchRow] = []
    with one_thread() as limited:
        if not limited:
            notes.append("BLAS keeps its number of threads; CPU time counts all of them")
        for net in nets:
            network = random_network(net)
            for steps in sim_steps:
                for batch in batch_sizes:
                    if progress is not None:
                        progress(f"{net}, T = {steps}, batch {batch}")
                    rows += _combination(network, net, steps, batch, chosen, seconds, quick, notes)
    how = "one call each" if quick else "best of the rounds, contenders taking turns"
    notes.insert(0, f"decisions per CPU-second on one thread, reset included; {how}")
    return BenchResult(tuple(rows), tuple(dict.fromkeys(notes)))


def memory_growth(decisions: int = 100_000, *, net: str = "8-64-64-4") -> MemoryGrowth:
    """Resident memory of this process before and after this many decisions of the cpu back end.

    Raises SpikerlError where the system does not tell (it reads /proc, so Linux only).
    """
    network = random_network(net)
    with get("cpu").compile(network) as session:
        observation = np.random.default_rng(0).standard_normal((1, network.n_in))
        drive = np.broadcast_to(observation, (32, *observation.shape))

        def decide(times: int) -> None:
            for _ in range(times):
                session.reset()
                session.run(drive)

        decide(1000)
        gc.collect()
        before = resident_bytes()
        decide(decisions)
        gc.collect()
        return MemoryGrowth(decisions, before, resident_bytes())


def random_network(net: str, seed: int = 0) -> SpikingNetwork:
    """A random ReLU net as a spiking one: thresholds at the 99.9th percentile of the activation.

    The thresholds are folded into the weights, as conversion does it; the last layer reads out.
    Raises SpikerlError if `net` is not sizes joined by "-".
    """
    try:
        sizes = [int(size) for size in net.split("-")]
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError
    except ValueError:
        raise SpikerlError(f"a net is written like '8-64-64-4', found {net!r}") from None
    rng = np.random.default_rng([seed, *sizes])
    x = rng.standard_normal((2000, sizes[0]))
    layers = []
    scale_in = 1.0
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        readout = i == len(sizes) - 2
        bound = n_in**-0.5  # torch's default for Linear
        weight = rng.uniform(-bound, bound, (n_out, n_in))
        bias = rng.uniform(-bound, bound, n_out)
        x = np.maximum(x @ weight.T + bias, 0.0)
        scale = 1.0 if readout else float(np.percentile(x, 99.9)) or 1.0
        layers.append(Dense(weight * scale_in / scale, bias / scale, spiking=not readout))
        scale_in = scale
    return SpikingNetwork(tuple(layers))


def _contenders(names: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Who takes part, and what is to be said about those who do not."""
    notes = []
    states = available()
    if names is None:
        chosen = [n for n, state in states.items() if state.usable and ":" not in n]
        notes.append("Names with a colon share simulators with others: name them to measure them")
        notes += [f"{n} left out: {s}" for n, s in states.items() if not s.usable]
    else:
        chosen = list(names)
        problems = problems_of(*(lambda n=n: ready(n) for n in chosen))
        if problems:
            raise BackendError("; ".join(problems))
    if "cpu" in chosen:
        chosen.insert(chosen.index("cpu") + 1, CPU_FLOAT32)
    if find_spec("torch") is None:
        notes.append("no torch loop and no SB3 to compare with: torch is not installed")
    elif find_spec("stable_baselines3") is None:
        notes.append("no SB3 to compare with: stable_baselines3 is not installed")
    return chosen, notes


def _combination(
    network: SpikingNetwork,
    net: str,
    steps: int,
    batch: int,
    names: Sequence[str],
    seconds: float,
    quick: bool,
    notes: list[str],
) -> Iterator[BenchRow]:
    observations = np.random.default_rng(1).standard_normal((batch, network.n_in))
    drive = np.broadcast_to(observations, (steps, *observations.shape))
    rate = None
    with ExitStack() as stack:
        contenders: dict[str, Decide] = {}
        for name in names:
            try:
                session = stack.enter_context(_compiled(name, network, batch))
            except BackendError as error:
                notes.append(f"{name} left out on {net}: {error}")
                continue
            contenders[name] = _session_decision(session, drive)
            if alone := getattr(session, "simulate_alone", None):
                contenders[name + ALONE] = partial(alone, steps)
            if rate is None:  # the same for all of them, by the contract
                counts = np.concatenate(session.run(drive).counts, axis=1)
                rate = float(counts.mean()) / steps
        if find_spec("torch") is not None:
            contenders[TORCH_LOOP] = _torch_decision(network, observations, steps)
            if find_spec("stable_baselines3") is not None:
                contenders[SB3] = _sb3_decision(net, observations)
        speeds = {n: batch / s for n, s in _take_turns(contenders, seconds, quick).items()}
    for name in [name for name in names if name + ALONE in speeds]:
        times = speeds[name + ALONE] / speeds[name]
        notes.append(
            f"{name}, {net}, T = {steps}, batch {batch}: a decision takes {times:.2f} times as "
            "long as the simulator takes for the steps alone"
        )
    for name, speed in speeds.items():
        yield BenchRow(
            net=net,
            sim_steps=steps,
            batch=batch,
            backend=name,
            decisions_per_cpu_second=speed,
            ratio_to_sb3=speed / speeds[SB3] if SB3 in speeds else None,
            ratio_to_torch_loop=speed / speeds[TORCH_LOOP] if TORCH_LOOP in speeds else None,
            mean_rate=None if name == SB3 or name.endswith(ALONE) else rate,
        )


def _compiled(name: str, network: SpikingNetwork, batch: int) -> Session:
    if name == CPU_FLOAT32:
        return get("cpu").compile(network, batch_size=batch, precision="float32")
    backend = get(name)  # which may have, for instance, no spikes without delay
    return backend.compile(under_rules(network, backend.capabilities), batch_size=batch)


def _take_turns(contenders: dict[str, Decide], seconds: float, quick: bool) -> dict[str, float]:
    """CPU seconds per call of each contender, the best of many short rounds."""
    best: dict[str, float] = {}
    for name, decide in contenders.items():
        decide()  # whatever happens once happens here
        best[name] = _timed(decide, 1)
    if quick:
        return best
    rounds = 12
    share = seconds / rounds / len(contenders)
    calls = {name: max(1, round(share / best[name])) for name in contenders}
    for turn in range(rounds):
        for name, decide in contenders.items():
            # one call that is longer than its share takes only as many turns as it can afford
            if turn * best[name] <= seconds / len(contenders):
                best[name] = min(best[name], _timed(decide, calls[name]))
    return best


def _timed(decide: Decide, calls: int) -> float:
    before = time.process_time()
    for _ in range(calls):
        decide()
    return max(time.process_time() - before, 1e-9) / calls


def _session_decision(session: Session, drive: FloatArray) -> Decide:
    def decide() -> Any:
        session.reset()
        return session.run(drive).potential

    return decide


def _torch_decision(network: SpikingNetwork, observations: FloatArray, steps: int) -> Decide:
    """The loop of the textbooks: linear, add, compare, subtract, at every step and layer."""
    import torch

    layers = [
        (torch.tensor(layer.weight).float(), torch.tensor(layer.bias).float(), layer.spiking)
        for layer in network.layers
        if isinstance(layer, Dense)
    ]
    drive = torch.tensor(observations).float()

    @torch.no_grad()
    def decide() -> Any:
        potentials = [torch.zeros(len(drive), len(bias)) for _, bias, _ in layers]
        for _ in range(steps):
            x = drive
            for i, (weight, bias, spiking) in enumerate(layers):
                v = potentials[i] + torch.nn.functional.linear(x, weight, bias)
                if spiking:
                    x = (v >= 1.0).float()
                    v = v - x
                potentials[i] = v
        return potentials[-1].numpy()

    return decide


def _sb3_decision(net: str, observations: FloatArray) -> Decide:
    """predict() of a DQN policy with the same layers, ReLU between them."""
    import gymnasium
    from stable_baselines3.dqn.policies import DQNPolicy

    sizes = [int(size) for size in net.split("-")]
    policy = DQNPolicy(
        gymnasium.spaces.Box(-np.inf, np.inf, (sizes[0],), np.float32),
        gymnasium.spaces.Discrete(sizes[-1]),
        lr_schedule=lambda _: 1e-3,
        net_arch=sizes[1:-1],
    )
    policy.set_training_mode(False)
    seen = observations.astype(np.float32)
    return lambda: policy.predict(seen, deterministic=True)
