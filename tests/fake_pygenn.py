"""A module like pygenn 5 that runs the neurons' code itself, slowly, without a compiler.

It keeps what GeNN keeps apart: the memory of a device from the views of the host, and a compiled
library from the model it was made for. What it does not know of GeNN's language is an error.
"""

from __future__ import annotations

import os
import re
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

TYPES = {"scalar": np.float64, "uint8_t": np.uint8, "int32_t": np.int32, "uint64_t": np.uint64}


class FakePygenn:
    """Stands for the module. backends: those it was built with; compiled: how often it compiled."""

    __version__ = "5.0.fake"
    VarAccess = VarAccessMode = SimpleNamespace(READ_ONLY="read only")

    def __init__(self, *backends: str) -> None:
        self.genn_model = SimpleNamespace(backend_modules=dict.fromkeys(backends))
        self.compiled = 0
        self.copied: deque[str] = deque(maxlen=100)  # the last ones: "push V", "pull count", ...
        self.loaded: set[Path] = set()
        self.compiler: Any = lambda: None  # may raise

    def GeNNModel(self, precision: str, name: str, *, backend: str) -> Model:
        assert precision == "double"
        return Model(self, name, backend)

    def create_neuron_model(self, name: str, **parts: Any) -> SimpleNamespace:
        return SimpleNamespace(**parts)

    def create_weight_update_model(self, name: str, **parts: Any) -> SimpleNamespace:
        assert parts["pre_event_syn_code"] == "addToPost(g);"
        ((event, kind, _),) = parts["pre_neuron_var_refs"]
        assert parts["pre_event_threshold_condition_code"] == f"{event} != 0"
        assert kind == "uint8_t"
        return SimpleNamespace(event=event)

    def create_var_ref(self, group: Neurons, name: str) -> tuple[Neurons, str]:
        assert name in group.vars
        return group, name

    def init_weight_update(
        self, kind: Any, params: Any, values: Any, pre_var_refs: Any = None
    ) -> Any:
        event = "" if kind == "StaticPulse" else kind.event
        assert list(pre_var_refs or {}) == ([event] if event else [])
        return SimpleNamespace(event=event, g=values["g"])

    def init_postsynaptic(self, kind: str) -> None:
        assert kind == "DeltaCurr"


class Variable:
    """A variable on the device, and the host's view of it."""

    def __init__(self, fake: FakePygenn, name: str, values: Any, batch: int, on_host: bool) -> None:
        self.name, self.fake = name, fake
        self.device = np.array(np.broadcast_to(values, (batch, len(values))))
        rows = self.device if on_host else self.device.copy()
        self.view = rows[0] if batch == 1 else rows

    def push_to_device(self) -> None:
        self.fake.copied.append(f"push {self.name}")
        self.device[...] = self.view

    def pull_from_device(self) -> None:
        self.fake.copied.append(f"pull {self.name}")
        self.view[...] = self.device


class Neurons:
    """A population: one step of it is its code, neuron by neuron."""

    def __init__(self, model: Model, size: int, kind: Any, params: Any, values: Any) -> None:
        self.kind, self.params, self.dynamic = kind, params, set()
        self.inputs = ["Isyn", *(name for name, _, _ in kind.additional_input_vars or ())]
        self.arriving = {name: np.zeros((model.batch_size, size)) for name in self.inputs}
        self.types = {name: TYPES[type_] for name, type_, *_ in kind.vars}
        assert all(values[name].dtype == self.types[name] for name in self.types)
        self.vars = {
            name: Variable(model.fake, name, values[name], model.batch_size, model.on_host)
            for name in self.types
        }
        self.function = translated(kind.sim_code, [*self.types, *self.inputs, *params, "t"])

    def set_param_dynamic(self, name: str) -> None:
        self.dynamic.add(name)

    def set_dynamic_param_value(self, name: str, value: float) -> None:
        assert name in self.dynamic
        self.params[name] = value

    def step(self, t: float) -> None:
        batch, size = self.arriving["Isyn"].shape
        for b, n in np.ndindex(batch, size):
            known = {name: self.vars[name].device[b, n].item() for name in self.types}
            known |= {name: self.arriving[name][b, n].item() for name in self.inputs}
            after = self.function(**known, **self.params, t=t)
            for name, type_ in self.types.items():
                value = after[name] % 2**64 if type_ is np.uint64 else after[name]
                self.vars[name].device[b, n] = value
        for arriving in self.arriving.values():
            arriving[...] = 0.0


class Synapses:
    """Dense or sparse; event: the variable that sends, "" for a spike."""

    post_target_var = "Isyn"

    def __init__(self, kind: str, source: Neurons, target: Neurons, weights: Any) -> None:
        shape = (source.arriving["Isyn"].shape[1], target.arriving["Isyn"].shape[1])
        self.source, self.target, self.event = source, target, weights.event
        self.longest, self.g = None, weights.g
        self.matrix = weights.g.reshape(shape) if kind == "DENSE" else np.zeros(shape)
        self.sparse = kind == "SPARSE"

    def set_sparse_connections(self, senders: Any, targets: Any) -> None:
        assert self.sparse
        np.add.at(self.matrix, (senders, targets), self.g)
        self.longest = int(np.bincount(senders).max())

    def step(self) -> None:
        sends = self.source.vars[self.event or "fired"].device != 0
        self.target.arriving[self.post_target_var] += sends @ self.matrix


class Model:
    def __init__(self, fake: FakePygenn, name: str, backend: str) -> None:
        self.fake, self.name = fake, name
        self.on_host = backend == "single_threaded_cpu"
        self.dt, self.batch_size, self.timestep = 0.1, 1, 0
        self.neurons: list[Neurons] = []
        self.synapses: list[Synapses] = []

    def add_neuron_population(
        self, name: str, size: int, kind: Any, params: Any, values: Any
    ) -> Neurons:
        self.neurons.append(Neurons(self, size, kind, params, values))
        return self.neurons[-1]

    def add_synapse_population(
        self, name: str, kind: str, source: Neurons, target: Neurons, weights: Any, post: Any
    ) -> Synapses:
        self.synapses.append(Synapses(kind, source, target, weights))
        return self.synapses[-1]

    def code(self) -> str:
        """What GeNN would write into the source files: no weight, no threshold, no start."""
        neurons = [
            (*map(str, vars(group.kind).items()), group.arriving["Isyn"].shape)
            for group in self.neurons
        ]
        synapses = [
            (self.neurons.index(s.source), self.neurons.index(s.target), s.event, s.longest)
            for s in self.synapses
        ]
        return repr((neurons, synapses, self.on_host, self.dt))

    def build(self, place: str, never_rebuild: bool = False) -> None:
        if self.on_host and self.batch_size > 1:
            raise RuntimeError("the single-threaded CPU backend has no batches")
        self.library = Path(place) / f"{self.name}_CODE" / "librunner.so"
        if not never_rebuild:
            self.fake.compiler()
            assert "-O2" in os.environ["CXX"]
            self.fake.compiled += 1
            self.library.parent.mkdir()
            self.library.write_text(self.code())

    def load(self) -> None:
        assert self.library not in self.fake.loaded, "two models would share their memory"
        if self.library.read_text() != self.code():
            raise RuntimeError("Unable to load library: made for another model")
        self.fake.loaded.add(self.library)

    def unload(self) -> None:
        self.fake.loaded.remove(self.library)

    def step_time(self) -> None:
        for synapses in self.synapses:
            synapses.step()
        for group in self.neurons:
            group.step(self.timestep * self.dt)
        self.timestep += 1


def translated(code: str, names: list[str]) -> Any:
    """GeNN's C, as far as it is used, as a function of all variables that returns them."""
    lines, depth = [f"def step({', '.join(names)}):"], 1

    def put(text: str) -> None:
        assert ">>" not in text, "GeNN's language has no shift to the right"
        text = re.sub(r"^(const )?scalar ", "", text.strip())
        text = text.replace("&&", " and ").replace("(uint64_t)", "")
        if text:
            lines.append("    " * depth + text)

    for line in code.splitlines():
        head, brace, rest = line.strip().partition("{")
        if head.startswith("}"):
            assert head == "}"
            depth -= 1
            continue
        if not brace:
            put(head.removesuffix(";"))
            continue
        put(re.sub(r"^if\((.*)\) $", r"if \1", head).rstrip() + ":")
        depth += 1
        if rest:
            assert rest.endswith("}")
            for statement in rest.removesuffix("}").split(";"):
                put(statement)
            depth -= 1
    lines.append("    return locals()")
    made: dict[str, Any] = {}
    exec("\n".join(lines), made)
    return made["step"]
