"""A module like spynnaker.pyNN that records its calls and computes as the chip's code does.

Weights become multiples of 2**(shift - 15) and one step of a neuron is integer arithmetic, as in
the machine code of sPyNNaker 7.4.1: a = i R, v <- a - d (a - v), products rounded down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

ONE = 1 << 15  # 1.0 in 16.15
BOUND = 1 << 31


def bits(values: Any) -> Any:
    """Numbers in 16.15; those out of range are refused, as sPyNNaker does."""
    array = np.rint(np.asarray(values, dtype=np.float64) * ONE).astype(np.int64)
    if (array < -BOUND).any() or (array >= BOUND).any():
        raise ValueError("cannot be converted to 16.15: out of range")
    return array


@dataclass
class Population:
    sim: FakeSpynnaker
    size: int
    model: Any
    initial: Any
    label: str
    extra: dict[str, Any]
    variables: list[str] = field(default_factory=list)
    incoming: list[Projection] = field(default_factory=list)
    spikes: list[Any] = field(default_factory=list)
    before: list[Any] = field(default_factory=list)

    def record(self, variables: list[str]) -> None:
        self.sim.call("record", self.label, variables)
        self.variables += variables

    def set(self, **values: Any) -> None:
        self.sim.call("set", self.label, values)
        if self.sim.ran and not self.sim.reset_since:
            raise RuntimeError("set before a reset")
        self.model.values.update(values)

    def spinnaker_get_data(self, variable: str, as_matrix: bool = False) -> Any:
        self.sim.call("get_data", self.label, variable)
        assert variable in self.variables
        if self.sim.virtual:
            return np.zeros((0, 2))
        if variable == "v":
            assert as_matrix
            return np.array(self.before) / ONE
        events = [(n, t) for t, fired in enumerate(self.spikes) for n in np.flatnonzero(fired)]
        return np.array(events, dtype=np.float64).reshape(-1, 2)

    def shift(self, sign: int) -> int:
        total = self.extra["max_expected_summed_weight"][0 if sign > 0 else 1]
        power = math.ceil(max(0.0, math.log2(total))) if total > 0 else 0
        return power + 1 if 2**power <= total else power

    def start(self) -> None:
        self.spikes, self.before = [], []
        self.v = np.broadcast_to(bits(self.initial), self.size).copy()
        self.resting = np.zeros(self.size, dtype=np.int64)
        p = self.model.values
        one = {k: bits(np.broadcast_to(v, self.size)) for k, v in p.items()}
        self.threshold, self.reset_to, self.offset = (
            one["v_thresh"],
            one["v_reset"],
            one["i_offset"],
        )
        self.refractory = -(-one["tau_refrac"] // ONE)
        self.r = (one["tau_m"] << 15) // one["cm"]
        self.rest = one.get("v_rest")
        # expk of -k steps for small k, as the machine code gives it: it is a step too low
        k = (1 << 30) // one["tau_m"]
        self.decay = ONE - (k + 1)
        assert self.model.name == "IFTruncDelta" or (k <= 5).all()

    def step(self, arriving: Any) -> Any:
        self.before.append(self.v.copy())
        i = arriving + self.offset
        a = (i * self.r) >> 15
        if self.model.name == "IFTruncDelta":
            v = np.maximum(self.v + a, self.reset_to)
        else:
            a = a + self.rest
            assert (np.abs(a) < BOUND).all(), "overflow"
            assert (np.abs(a - self.v) < BOUND).all(), "overflow"
            v = a - ((self.decay * (a - self.v)) >> 15)
        assert (np.abs(v) < BOUND).all(), "overflow"
        awake = self.resting <= 0
        self.v = np.where(awake, v, self.v)
        self.resting = np.where(awake, self.resting, self.resting - 1)
        fired = self.v >= self.threshold
        self.v = np.where(fired, self.reset_to, self.v)
        self.resting = np.where(fired, self.refractory, self.resting)
        self.spikes.append(fired)
        return fired


@dataclass
class Projection:
    pre: Population
    post: Population
    rows: Any
    receptor: str
    tamper: float = 1.0

    @property
    def sign(self) -> int:
        return {"excitatory": 1, "inhibitory": -1}[self.receptor]

    def steps(self) -> Any:
        """Weights as the 16-bit numbers the chip keeps; the sign is lost, as in sPyNNaker."""
        kept = np.rint(np.abs(self.rows[:, 2]) * 2.0 ** (15 - self.post.shift(self.sign)))
        assert (kept < 1 << 16).all()
        return kept.astype(np.int64)

    def get(self, name: str, form: str, with_address: bool) -> list[tuple[Any, Any, Any]]:
        assert (name, form, with_address) == ("weight", "list", True)
        values = self.steps() * 2.0 ** (self.post.shift(self.sign) - 15) * self.tamper
        triples = zip(self.rows[:, 0].astype(int), self.rows[:, 1].astype(int), values, strict=True)
        return sorted(triples, key=lambda row: row[:2])

    def arrive(self, fired: Any) -> Any:
        """What reaches the targets in a step: a ring buffer of 16 bits, which saturates."""
        sums = np.zeros(self.post.size, dtype=np.int64)
        pre, post = self.rows[:, 0].astype(int), self.rows[:, 1].astype(int)
        np.add.at(sums, post, self.steps() * fired[pre])
        return self.sign * (np.minimum(sums, (1 << 16) - 1) << self.post.shift(self.sign))


class FakeSpynnaker:
    """The part of spynnaker.pyNN that is used; `calls` is what happened, in order.

    virtual: return no data.  fail: the message of the error that run() raises.
    tamper: what weights read back are multiplied by.  keep: whether calls are kept.
    """

    def __init__(
        self, virtual: bool = False, fail: str | None = None, tamper: float = 1.0, keep: bool = True
    ) -> None:
        self.keep = keep
        self.calls: list[tuple[Any, ...]] = []
        self.virtual, self.fail, self.tamper = virtual, fail, tamper
        self.populations: list[Population] = []
        self.projections: list[Projection] = []
        self.ran = self.reset_since = False
        self.extra_models = SimpleNamespace(IFTruncDelta=self._model("IFTruncDelta"))
        self.IF_curr_delta = self._model("IF_curr_delta")

    def call(self, *what: Any) -> None:
        if self.keep:
            self.calls.append(what)

    def _model(self, name: str) -> Any:
        def make(**values: Any) -> Any:
            for value in values.values():
                bits(value)
            return SimpleNamespace(name=name, values=dict(values))

        return make

    def setup(self, **options: Any) -> None:
        self.call("setup", options)
        self.populations, self.projections = [], []
        self.ran = self.reset_since = False
        print("stdout of setup")

    def Population(self, size: int, model: Any, **options: Any) -> Population:
        self.call("Population", options["label"], size, model.name)
        made = Population(
            self,
            size,
            model,
            options["initial_values"]["v"],
            options["label"],
            options["additional_parameters"],
        )
        self.populations.append(made)
        return made

    def FromListConnector(self, rows: Any) -> Any:
        assert rows.shape[1] == 4
        assert (rows[:, 3] == 1.0).all()
        return rows

    def Projection(self, pre: Population, post: Population, rows: Any, receptor_type: str) -> Any:
        self.call("Projection", pre.label, post.label, receptor_type, len(rows))
        assert (rows[:, 2] > 0).all(), "the sign of a weight is lost"
        made = Projection(pre, post, rows, receptor_type, self.tamper)
        self.projections.append(made)
        return made

    def reset(self) -> None:
        self.call("reset")
        self.reset_since = True

    def run(self, ms: float) -> None:
        self.call("run", ms)
        print("stdout of run")
        if self.fail is not None:
            raise OSError(self.fail)
        assert not self.ran or self.reset_since
        self.ran, self.reset_since = True, False
        for population in self.populations:
            population.start()
        sent = [np.zeros(p.size, dtype=bool) for p in self.populations]
        for _ in range(int(ms)):
            arriving = [np.zeros(p.size, dtype=np.int64) for p in self.populations]
            for projection in self.projections:
                pre, post = (
                    next(i for i, p in enumerate(self.populations) if p is end)
                    for end in (projection.pre, projection.post)
                )
                arriving[post] += projection.arrive(sent[pre])
            sent = [p.step(x) for p, x in zip(self.populations, arriving, strict=True)]

    def end(self) -> None:
        self.call("end")
