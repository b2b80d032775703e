"""PyGeNN's MNIST tutorial on scikit-learn's 8 x 8 digits, retold with spikerl.

    python digits_in_genn.py                   on PyGeNN, or on the cpu back end where it is missing
    python digits_in_genn.py --backend cpu     on any other back end

As in the tutorial a plain ReLU network without biases is trained, and its weights are copied into
integrate-and-fire neurons: one per pixel, which a current drives, a hidden layer, and one per
digit, of which the busiest answers. Beside it stands what spikerl.convert() makes of the same.
Prints a table of accuracies; draws the spikes of one image as digits_in_genn.png.

Needs scikit-learn and matplotlib: pip install scikit-learn matplotlib
"""

import argparse
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from gymnasium import spaces
from sklearn.datasets import load_digits
from torch import nn

import spikerl
from spikerl import Dense, SpikingNetwork

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--backend", help="genn where it can be used, else cpu")
parser.add_argument("--sim-steps", type=int, default=100, help="steps an image is shown")
parser.add_argument("--image", type=int, default=0, help="the test image to draw")
options = parser.parse_args()

name = options.backend
if name is None:
    genn = spikerl.backends.available()["genn"]
    name = "genn" if genn.usable else "cpu"
    if not genn.usable:
        print(f"genn {genn}\nso this runs on {name!r}\n")

digits = load_digits()
images, labels = digits.data.astype(np.float32) / 16, digits.target
training, test = slice(0, 1347), slice(1347, None)

torch.manual_seed(0)
torch.set_num_threads(1)
plain = nn.Sequential(nn.Linear(64, 128, bias=False), nn.ReLU(), nn.Linear(128, 10, bias=False))
adam = torch.optim.Adam(plain.parameters(), lr=3e-3)
x, y = torch.tensor(images[training]), torch.tensor(labels[training])
for _ in range(30):
    for batch in torch.randperm(len(x)).split(64):
        adam.zero_grad()
        nn.functional.cross_entropy(plain(x[batch]), y[batch]).backward()
        adam.step()
with torch.no_grad():
    answers = plain(torch.tensor(images[test])).argmax(dim=1).numpy()
rows = [("ReLU network", answers, "")]

# The tutorial's network: every threshold 5, reset to zero, a step from layer to layer.
neurons = {"v_threshold": 5.0, "reset": "zero", "delay_steps": 1}
first, last = (layer.weight.detach().numpy() for layer in (plain[0], plain[2]))
network = SpikingNetwork(
    (Dense(np.eye(64), **neurons), Dense(first, **neurons), Dense(last, **neurons))
)
shown = images[test] * 2.55  # the tutorial's brightest pixel, 255 / 100
drive = np.broadcast_to(shown, (options.sim_steps, *shown.shape))
with spikerl.backends.get(name).compile(network, batch_size=len(shown)) as session:
    started = time.perf_counter()
    counts = session.run(drive).counts
    speed = f"{len(shown) / (time.perf_counter() - started):,.0f}"
    session.reset()
    one = session.run(drive[:, options.image, None], record_spikes=True)
rows.append((f"tutorial's spiking network, T = {options.sim_steps}", counts[-1].argmax(1), speed))

agent = spikerl.convert(
    plain,
    sim_steps=options.sim_steps,
    observations=images[training],
    observation_space=spaces.Box(0, 1, (64,)),
    action_space=spaces.Discrete(10),
    target=name,
)
with spikerl.HardwarePolicy(agent, name, n_envs=len(shown)) as policy:
    started = time.perf_counter()
    answers, _ = policy.predict(images[test])
    speed = f"{len(shown) / (time.perf_counter() - started):,.0f}"
rows.append((f"spikerl.convert(), T = {options.sim_steps}", answers, speed))

print(f"{len(shown)} test images on {name!r}\n")
print(f"{'network':<40}{'accuracy':>10}{'as the ReLU network':>22}{'images/s':>12}")
for title, found, speed in rows:
    right, same = np.mean(found == labels[test]), np.mean(found == rows[0][1])
    print(f"{title:<40}{right:>10.1%}{same:>22.1%}{speed:>12}")

figure, axes = plt.subplots(3, sharex=True, figsize=(7, 6), layout="constrained")
for axis, spikes, title in zip(axes, one.spikes, ("pixels", "hidden", "digits"), strict=True):
    axis.scatter(*np.nonzero(spikes[:, 0]), s=2)
    axis.set(title=title, ylabel="neuron", ylim=(-1, spikes.shape[2]))
axes[-1].axhline(labels[test][options.image], color="gray", alpha=0.3, linestyle="--")
axes[-1].set(xlabel="step", xlim=(-1, options.sim_steps), yticks=range(0, 10, 3))
figure.align_ylabels()
figure.savefig("digits_in_genn.png", dpi=150)
print("\ndrawn: digits_in_genn.png")
