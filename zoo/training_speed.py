"""Training and acting speed of spiking layers beside other libraries, in one interleaved run.

    python zoo/training_speed.py [--seconds 1.0]     writes zoo/speed.jsonl, CPU times in ms
    python zoo/training_speed.py --device cuda       prints the rows only, in ms by the clock

Nets are 8-h-h-4 of leaky neurons, reset by subtraction where a library has it, arctan surrogate,
the mean over T steps behind a linear read-out, one thread. Libraries that are not installed are
left out: spikingjelly 2, snntorch 1, norse 1.1. They take turns of TURN calls, so that each works
with its own numbers in the caches. zoo/results.md is written anew. On a GPU spikingjelly takes its
own fused loops.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import results
import torch
from torch import nn

from spikerl.nn import Neuron, SpikingMLP

TURN = 10
ROWS = Path(__file__).with_name("speed.jsonl")


class Arctan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad / (1 + (torch.pi * x) ** 2)


class Loop(nn.Module):
    """A plain loop over time."""

    def __init__(self, h: int, steps: int) -> None:
        super().__init__()
        self.layers, self.steps = nn.ModuleList([nn.Linear(8, h), nn.Linear(h, h)]), steps
        self.out = nn.Linear(h, 4)

    def forward(self, x):
        potentials, total = [0.0, 0.0], 0.0
        for _ in range(self.steps):
            signal = x
            for i, layer in enumerate(self.layers):
                v = 0.75 * potentials[i] + layer(signal)
                signal = Arctan.apply(v - 1.0)
                potentials[i] = v - signal
            total = total + signal
        return self.out(total / self.steps)


def plain(h: int, steps: int) -> nn.Module:
    return Loop(h, steps)


def ours(h: int, steps: int) -> nn.Module:
    return nn.Sequential(
        SpikingMLP(8, [h, h], sim_steps=steps, neuron=Neuron("LIF")), nn.Linear(h, 4)
    )


def spikingjelly(h: int, steps: int) -> nn.Module:
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    def cell() -> nn.Module:
        rule = surrogate.ATan()
        return neuron.LIFNode(tau=2.0, v_reset=None, surrogate_function=rule, step_mode="m")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(layer.Linear(8, h), cell(), layer.Linear(h, h), cell())
            functional.set_step_mode(self.body, "m")
            self.out = nn.Linear(h, 4)

        def forward(self, x):
            functional.reset_net(self.body)
            return self.out(self.body(x.expand(steps, *x.shape)).mean(0))

    return Net()


def snntorch(h: int, steps: int) -> nn.Module:
    import snntorch as snn
    from snntorch import surrogate

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(8, h), nn.Linear(h, h)])
            rule = surrogate.atan()
            self.cells = nn.ModuleList([snn.Leaky(0.75, spike_grad=rule) for _ in range(2)])
            self.out = nn.Linear(h, 4)

        def forward(self, x):
            states, total = [cell.init_leaky() for cell in self.cells], 0.0
            for _ in range(steps):
                signal = x
                for i, (layer, cell) in enumerate(zip(self.layers, self.cells, strict=True)):
                    signal, states[i] = cell(layer(signal), states[i])
                total = total + signal
            return self.out(total / steps)

    return Net()


def norse(h: int, steps: int) -> nn.Module:
    from norse.torch import LIFBoxCell

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(8, h), nn.Linear(h, h)])
            self.cells = nn.ModuleList([LIFBoxCell() for _ in range(2)])
            self.out = nn.Linear(h, 4)

        def forward(self, x):
            states, total = [None, None], 0.0
            for _ in range(steps):
                signal = x
                for i, (layer, cell) in enumerate(zip(self.layers, self.cells, strict=True)):
                    signal, states[i] = cell(layer(signal), states[i])
                total = total + signal
            return self.out(total / steps)

    return Net()


LIBRARIES = {
    "spikerl": ours,
    "plain loop": plain,
    "spikingjelly": spikingjelly,
    "snntorch": snntorch,
    "norse": norse,
}


def clock_of_gpu() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    jobs: dict[str, Callable[[], object]], seconds: float, clock: Callable[[], float]
) -> dict[str, float]:
    """Median time of each job in ms, all of them in turn."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job(), job()
    end = clock() + seconds
    while clock() < end or len(times["spikerl"]) < 5:
        for name, job in jobs.items():
            start = clock()
            for _ in range(TURN):
                job()
            times[name].append((clock() - start) / TURN)
    return {name: 1e3 * float(np.median(found)) for name, found in times.items()}


def products(h: int, steps: int, batch: int, backward: bool, device: str) -> Callable[[], object]:
    """The matrix products of a pass alone; the first layer's input is the same at every step."""
    shapes = ((batch, 8), (steps * batch, h), (batch, h), (h, 8), (h, h), (4, h), (batch, 4))
    made = (torch.randn(shape, device=device) for shape in shapes)
    x, spikes, counts, first, second, last, g = made

    def run() -> None:
        x @ first.t(), spikes @ second.t(), counts @ last.t()
        if backward:
            g.t() @ counts, g @ last  # of the read-out
            spikes.t() @ spikes, spikes @ second
            counts.t() @ x

    return run


def trained(net: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    def step() -> None:
        net.zero_grad()
        net(x).square().mean().backward()

    return step


def acting(net: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    net.eval()

    def act() -> torch.Tensor:
        with torch.no_grad():
            return net(x)

    return act


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    device = options.device
    clock = time.process_time if device == "cpu" else clock_of_gpu
    torch.set_num_threads(1)
    torch.manual_seed(0)
    usable = {}
    for name, make in LIBRARIES.items():
        try:
            make(8, 2)(torch.zeros(1, 8))
        except ImportError:
            continue
        usable[name] = make
    processor = torch.backends.cpu.get_cpu_capability().replace("AVX512", "AVX-512")
    if device != "cpu":
        processor = torch.cuda.get_device_name(device)
    rows = []
    for what, batches, job in (("train", (64, 256), trained), ("act", (1, 8), acting)):
        for h in (64, 256):
            for batch in batches:
                for steps in (4, 8, 16):
                    x = torch.randn(batch, 8, device=device)
                    jobs = {
                        name: job(make(h, steps).to(device), x) for name, make in usable.items()
                    }
                    jobs["products"] = products(h, steps, batch, what == "train", device)
                    ms = interleaved(jobs, options.seconds, clock)
                    row = {"cpu": processor, "what": what, "hidden": h, "batch": batch, "T": steps}
                    rows.append({**row, "products": ms.pop("products"), "ms": ms})
                    print(rows[-1], flush=True)
    if device == "cpu":
        others = [row for row in results.stored(ROWS.name) if row["cpu"] != processor]
        ROWS.write_text("".join(json.dumps(row) + "\n" for row in (*others, *rows)), "utf-8")
        results.write()
