"""Two analogue neurons tell two frozen noises apart, on any Dynap-SE2 chip (Rockpool's simulation).

After Rockpool's tutorial: 60 inputs, 50 Hz Poisson, 500 ms, two recurrent neurons, one per pattern.
Needs: pip install 'spikerl[dynapse]'.  Usage: python frozen_noise.py [--updates 400]
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import numpy as np

from spikerl.dynapse import Chip, DynapseNet, Quantized, counts, quantize, train

STEPS, INPUTS, RATE = 500, 60, 0.05  # 500 ms in steps of 1 ms; 50 Hz
PATTERNS = [0, 1]


def noise(number: int, seed: int) -> np.ndarray:
    """Patterns as spikes [T, number, inputs]."""
    spikes = np.random.default_rng(seed).random((number, STEPS, INPUTS)) < RATE
    return spikes.swapaxes(0, 1)


def dropped(raster: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The same spikes without a share of them."""
    return raster & (np.random.default_rng(seed).random(raster.shape) >= share)


def ratios(found: np.ndarray) -> np.ndarray:
    """Firing-rate ratio of the louder neuron to the other: [..., 2] -> [...]; no spike is one."""
    return found.max(-1) / np.maximum(found.min(-1), 1)


def accuracy(found: np.ndarray) -> float:
    """Share of patterns at which the right neuron is strictly the louder one: [..., B, 2]."""
    right = np.stack([found[..., k, k] > found[..., k, 1 - k] for k in PATTERNS], -1)
    return float(right.mean())


def measure(
    updates: int, unseen: int = 100, draws: int = 10
) -> tuple[list[tuple[str, str, str, str]], dict[str, np.ndarray], Quantized]:
    """Train; rows of the table, ratios at unseen patterns before and after, the quantised net."""
    known, others = noise(2, seed=2022), noise(unseen, seed=2023)
    start = DynapseNet.random(INPUTS, 2, n_classes=2, seed=0)
    trained = train(start, known, PATTERNS, updates=updates, drop_spikes=0.2).net
    quantized = quantize(trained)
    nets = (start, trained, quantized.net)
    chips = [Chip.drawn(INPUTS, 2, seed) for seed in range(draws)]
    noisy = [dropped(known, 0.1, seed) for seed in range(draws)]

    def row(name: str, of) -> tuple[str, str, str, str]:
        return (name, *(of(net) for net in nets))

    table = [
        row(f"ratio, pattern {k}", lambda net, k=k: f"{ratios(counts(net, known))[0, k]:.2f}")
        for k in PATTERNS
    ]
    table += [
        row("accuracy", lambda net: f"{accuracy(counts(net, known)):.2f}"),
        row(f"... on {draws} chips", lambda net: f"{accuracy(counts(net, known, chips)):.2f}"),
        row(
            "... on the worst of them",
            lambda net: f"{min(accuracy(c) for c in counts(net, known, chips)):.2f}",
        ),
        row(
            "... 10 % of spikes dropped",
            lambda net: f"{np.mean([accuracy(counts(net, x, chips)) for x in noisy]):.2f}",
        ),
        row(
            f"median ratio, {unseen} unseen",
            lambda net: f"{np.median(ratios(counts(net, others))):.2f}",
        ),
    ]
    seen = {"before": ratios(counts(start, others))[0], "after": ratios(counts(trained, others))[0]}
    return table, seen, quantized


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=400)
    table, seen, quantized = measure(parser.parse_args().updates)
    print(f"{'':28}{'untrained':>12}{'trained':>12}{'4 bits':>12}")
    for name, *values in table:
        print(f"{name:28}" + "".join(f"{value:>12}" for value in values))
    print(quantized)
    edges = [1.0, 1.1, 1.25, 1.5, 2.0, 3.0, np.inf]
    print("\nfiring-rate ratios at unseen patterns    before    after")
    for low, high in pairwise(edges):
        share = [((values >= low) & (values < high)).sum() for values in seen.values()]
        print(
            f"  {low:4.2f} to {high:4.2f}"
            + "".join(f"{n:>{w}}" for n, w in zip(share, (30, 9), strict=True))
        )


if __name__ == "__main__":
    main()
