"""From a ReLU network to Loihi: what firing rates cost, and two ways to get the accuracy back.

    python keras_to_loihi.py            a minute or two; writes keras_to_loihi.png
    python keras_to_loihi.py --quick    a shorter look

NengoLoihi's Keras tutorial, told on scikit-learn's digits of 8 x 8 pixels: a convolutional ReLU
network, its spiking copies, and the emulated chip. One factor turns an activation into a firing
rate, for all layers or for each; a Loihi neuron that receives x per step fires every ceil(1 / x)
steps, so that high rates are coarse, and low ones take time to be told apart.
"""

import sys

import matplotlib
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from spikerl import backends
from spikerl.backends.loihi import EmulatorBackend
from spikerl.backends.loihi_rates import factors_for, rate_scaled
from spikerl.network import Conv2d, Dense, Flatten, SpikingNetwork
from spikerl.plots.drawing import COLOURS  # told apart by every kind of colour vision

matplotlib.use("Agg")
import matplotlib.pyplot as plt

QUICK = "--quick" in sys.argv
EPOCHS, IMAGES, T = (4, 25, 60) if QUICK else (40, 360, 60)
ONE_RATE = 0.1  # spikes per step for an activation of 1, in every layer: 100 Hz
HIGH_RATE = 1.0  # the same for a network that is trained to bear it
TARGET = 0.2  # spikes per step that every layer should have on average: 200 Hz
LAYERS = ("to-spikes", "conv0", "conv1", "dense0")

torch.manual_seed(0)
torch.set_num_threads(1)
x, y = load_digits(return_X_y=True)
x = (x / 16).reshape(-1, 1, 8, 8).astype(np.float32)
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, random_state=0)
x_test, y_test = x_test[:IMAGES], y_test[:IMAGES]


class LoihiRate(nn.Module):
    """The rate of a Loihi neuron, 1 / ceil(1 / x), over `rate`; the gradient is that of a ReLU
    that ends where the neuron fires at every step."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x):
        drive = (x * self.rate).clamp(1e-3, 1.0)
        fired = torch.where(x > 0, 1 / torch.ceil(1 / drive) / self.rate, 0.0)
        soft = x.relu().clamp(max=1 / self.rate)
        return soft + (fired - soft).detach()


def trained(activation) -> nn.Sequential:
    """A network of four layers and a read-out, trained on the digits."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 3, 1), activation()),
        *(nn.Conv2d(3, 8, 3), activation()),
        *(nn.Conv2d(8, 16, 3), activation()),
        nn.Flatten(),
        *(nn.Linear(256, 64), activation()),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    images, labels = torch.from_numpy(x_train), torch.from_numpy(y_train)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model


def spiking(model: nn.Sequential, reset: str) -> SpikingNetwork:
    """The same weights with neurons that fire once per step for an activation of 1."""
    rules = {"reset": reset, "delay_steps": 1}
    layers, shape = [], (1, 8, 8)
    for module in model:
        if isinstance(module, nn.Conv2d):
            weight, bias = (p.detach().numpy() for p in (module.weight, module.bias))
            layers.append(Conv2d(weight, shape, bias, **rules))
            shape = layers[-1].output_shape
        elif isinstance(module, nn.Flatten):
            layers.append(Flatten(shape))
        elif isinstance(module, nn.Linear):
            weight, bias = (p.detach().numpy() for p in (module.weight, module.bias))
            layers.append(Dense(weight, bias, **rules))
    # Spikes take four steps to the read-out, which adds its bias at each of T.
    last = layers[-1]
    layers[-1] = Dense(last.weight, last.bias * (T - len(LAYERS)) / T, spiking=False)
    return SpikingNetwork(tuple(layers))


def tried(network: SpikingNetwork, backend: str) -> tuple[float, list[float]]:
    """Accuracy on the test images, and the mean rate in Hz of each layer's active neurons."""
    drive = np.broadcast_to(x_test.reshape(1, len(x_test), -1), (T, len(x_test), 64))
    with backends.get(backend).compile(network, batch_size=len(x_test)) as session:
        recording = session.run(drive)
    accuracy = (recording.potential.argmax(axis=1) == y_test).mean()
    return accuracy, [
        float(n[n > 0].mean()) / T * 1000 if n.any() else 0.0 for n in recording.counts
    ]


relu = trained(nn.ReLU)
looped = trained(lambda: LoihiRate(HIGH_RATE))
one, high = [ONE_RATE] * len(LAYERS), [HIGH_RATE] * len(LAYERS)
# Rates are measured where no neuron saturates, and scale with the factors.
slow = rate_scaled(spiking(relu, "subtract"), one)
measure = np.broadcast_to(x_train[:200].reshape(1, 200, -1), (T, 200, 64))
each = [ONE_RATE * factor for factor in factors_for(slow, measure, TARGET)]

chip = rate_scaled(spiking(relu, "zero"), each)
learned = rate_scaled(spiking(looped, "zero"), high)
RUNS = [
    ("reset by subtraction, one scale", slow, "cpu"),
    ("Loihi neurons, one scale", rate_scaled(spiking(relu, "zero"), one), "cpu"),
    ("Loihi neurons, one high scale", rate_scaled(spiking(relu, "zero"), high), "cpu"),
    ("Loihi neurons, a scale per layer", chip, "cpu"),
    ("  on the emulated chip", chip, "loihi:emulator"),
    ("trained with Loihi neurons, high", learned, "cpu"),
    ("  on the emulated chip", learned, "loihi:emulator"),
]

with torch.no_grad():
    plain = (relu(torch.from_numpy(x_test)).argmax(dim=1).numpy() == y_test).mean()
print(f"{'rates in Hz of active neurons':34}{'accuracy':>9}" + "".join(f"{n:>11}" for n in LAYERS))
print(f"{'ReLU':34}{plain:9.1%}")
results = []
for name, network, backend in RUNS:
    accuracy, rates = tried(network, backend)
    results.append((name, backend, accuracy, rates))
    print(f"{name:34}{accuracy:9.1%}" + "".join(f"{rate:11.0f}" for rate in rates), flush=True)
scales = zip(LAYERS, each, strict=True)
print("\nscales per layer: " + ", ".join(f"{name} {s * 1000:.0f} Hz" for name, s in scales))
print("\nthe chip:\n" + str(EmulatorBackend().plan(chip).resources))
blocks = EmulatorBackend().plan(chip, block_shapes={1: (8, 3, 6), 2: (4, 4, 4), 4: 32}).resources
print(f"\nin blocks of our own: {len(blocks.cores)} cores")

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
drives = np.linspace(0.001, 1, 2000)
left.plot(drives * 1000, drives * 1000, color=COLOURS[0], label="ReLU, reset by subtraction")
left.plot(drives * 1000, 1000 / np.ceil(1 / drives), color=COLOURS[1], label="Loihi")
left.set(xlabel="input, Hz", ylabel="rate, Hz", title="a neuron's rate")
left.legend()
shown = [row for row in results if row[1] == "cpu"]  # the emulated chip's are the same to the eye
for (name, _, accuracy, rates), colour, marker in zip(shown, COLOURS, "os^Dv", strict=False):
    right.plot(LAYERS, rates, color=colour, marker=marker, label=f"{name}: {accuracy:.1%} right")
right.axhline(TARGET * 1000, color="grey", linewidth=0.5, label=f"aim: {TARGET * 1000:.0f} Hz")
right.set(ylabel="rate of active neurons, Hz", title="rates by layer")
right.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
figure.savefig("keras_to_loihi.png", dpi=120)
print("\ndrawn: keras_to_loihi.png")
