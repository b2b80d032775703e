"""Small agents that between them hold every part a saved agent can have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from spikerl.agent import SpikingAgent
from spikerl.decoding import (
    Binary,
    Categorical,
    Decoder,
    FinalPotential,
    FirstSpike,
    Gaussian,
    ResidualPotential,
    SpikeCount,
)
from spikerl.encoding import (
    ConstantCurrent,
    EquidistantSpikes,
    LatencySpike,
    PoissonSpikes,
    PopulationCode,
    ReceptiveFields,
)
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, SpikingNetwork
from spikerl.preprocessing import Normalize, from_space
from spikerl.report import ConversionReport, GapReport, LayerReport
from spikerl.statistics import Estimate

ESTIMATE = Estimate(0.97, 0.951, 0.983, 500, "wilson")
REPORT = ConversionReport(
    sim_steps=16,
    agreement=ESTIMATE,
    action_error=None,
    value_error=float("inf"),
    by_steps={4: ESTIMATE, 16: Estimate(0.98, 0.96, 0.99, 500, "wilson")},
    target=0.99,
    steps_needed=None,
    coarse=0.01,
    layers=(LayerReport("0", 8, 0.125, 1, 2),),
    calibration=1000,
    held_out=500,
    episodes=0,
    warnings=("a sentence for the user: \u00e9\u03b8",),
    gaps=GapReport(edges=(0.25, 1.0, 3.5), counts=(20, 480), resolution=0.75),
)


def weights(seed: int, *shape: int) -> np.ndarray:
    """Numbers with full mantissas, so that a lost bit shows."""
    return np.random.default_rng(seed).normal(size=shape)


def pole() -> SpikingAgent:
    """CartPole's spaces, VecNormalize statistics, softmax sampling, a report."""
    space = spaces.Box(np.float32([-4.8, -np.inf, -0.42, -np.inf]), np.float32([4.8, np.inf, 1, 2]))
    normal = Normalize(weights(1, 4) * 0.1, weights(2, 4) ** 2 + 0.1, clip=5.0)
    network = SpikingNetwork(
        (Dense(weights(3, 8, 4), weights(4, 8)), Dense(weights(5, 2, 8), spiking=False))
    )
    return SpikingAgent(
        network=network,
        preprocessing=from_space(space, normalize={None: normal}),
        encoder=ConstantCurrent(),
        decoder=Decoder(FinalPotential(), Categorical((2,), sampling="softmax")),
        sim_steps=16,
        observation_space=space,
        action_space=spaces.Discrete(2),
        provenance={"seed": 3, "loss": float("nan"), "of": [1, 2.5, None, True], "empty": {}},
        report=REPORT,
    )


def pixels() -> SpikingAgent:
    """Images, convolutions, Poisson input, spike counts, several choices."""
    space = spaces.Box(0, 255, (1, 9, 8), np.uint8)
    network = SpikingNetwork(
        (
            Conv2d(weights(1, 3, 2, 3, 3), (2, 9, 8), stride=(2, 1), padding=(1, 0), v_init=0.5),
            AvgPool2d((3, 5, 6), (2, 3), (1, 3)),
            Flatten((3, 4, 2)),
            Dense(
                weights(30, 5, 24) * 0.5, weights(3, 5) + 1, reset="zero", decay=0.75, v_threshold=2
            ),
        ),
        dt_ms=0.5,
    )
    return SpikingAgent(
        network=network,
        preprocessing=from_space(space),
        encoder=PoissonSpikes(scale=0.7),
        decoder=Decoder(
            SpikeCount([1.0, 1.5, 1.0, 1.7, 0.9], 0.1), Categorical((2, 3), multi=True)
        ),
        sim_steps=6,
        observation_space=space,
        action_space=spaces.MultiDiscrete([2, 3]),
    )


def arm() -> SpikingAgent:
    """Dict observations of every kind, a population code, a squashed Gaussian."""
    space = spaces.Dict(
        [  # a list keeps its order, which is not the alphabet's
            ("where", spaces.Box(-1, 1, (2,), np.float64)),
            ("button", spaces.MultiBinary(2)),
            ("gear", spaces.Discrete(3)),
            ("dials", spaces.MultiDiscrete([2, 2])),
        ]
    )
    preprocessing = from_space(space, normalize={"where": Normalize([0.1, 0.2], [1.0, 2.0])})
    encoder = PopulationCode(3, low=-(weights(1, 11) ** 2) - 1, high=1.5, spikes="equidistant")
    low, high = np.float32([-1, 0.5]), np.float32([1, 2.5])
    network = SpikingNetwork(
        (Dense(weights(2, 6, 33), weights(3, 6)), Dense(weights(4, 4, 6), spiking=False))
    )
    head = Gaussian(low, high, squash="tanh", mean_limit=2.0, noise="read")
    return SpikingAgent(
        network=network,
        preprocessing=preprocessing,
        encoder=encoder,
        decoder=Decoder(FinalPotential(v_init=weights(5, 4), average=False), head),
        sim_steps=5,
        observation_space=space,
        action_space=spaces.Box(low, high),
    )


def walker() -> SpikingAgent:
    """Stateful and recurrent, with every field of a neuron set; latency input, bits as actions."""
    space = spaces.Box(-1, 1, (3,))
    hidden = Dense(
        weights(1, 4, 6),
        weights(2, 4),
        recurrent=weights(3, 4, 4),
        decay=np.array([0.5, 0.75, 0.9, 1.0]),
        v_threshold=np.array([1.0, 2.0, 0.5, 1.5]),
        v_init=np.array([0.1, 0.2, 0.3, 0.4]),
        delay_steps=2,
        refractory_steps=1,
        v_min=-1.5,
    )
    network = SpikingNetwork((hidden, Dense(weights(4, 4, 4), reset="zero")))
    return SpikingAgent(
        network=network,
        preprocessing=from_space(space),
        encoder=LatencySpike(scale=[1.0, 0.5, 2.0]),
        decoder=Decoder(SpikeCount(signed=True), Binary(2)),
        sim_steps=7,
        observation_space=space,
        action_space=spaces.MultiBinary(2),
        stateful=True,
    )


def racer() -> SpikingAgent:
    """First spikes decide, with exploration; equidistant input."""
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    return SpikingAgent(
        network=SpikingNetwork((Dense(weights(1, 3, 2), weights(2, 3)),)),
        preprocessing=from_space(space),
        encoder=EquidistantSpikes(scale=3.0, signed=False),
        decoder=Decoder(FirstSpike(), Categorical((3,), sampling="epsilon", epsilon=0.1)),
        sim_steps=9,
        observation_space=space,
        action_space=spaces.Discrete(3, dtype=np.int32),
    )


def thrower() -> SpikingAgent:
    """A clipped Gaussian with fixed noise over an unbounded Box of two axes."""
    space = spaces.Box(-1, 1, (2,))
    action = spaces.Box(-np.inf, np.float32([[1.0, np.inf]]), (1, 2))
    head = Gaussian(action.low, action.high, noise="fixed", log_std=[-1.0, 0.3])
    return SpikingAgent(
        network=SpikingNetwork((Dense(weights(1, 2, 2), spiking=False),)),
        preprocessing=from_space(space),
        encoder=ConstantCurrent(),
        decoder=Decoder(FinalPotential(), head),
        sim_steps=2,
        observation_space=space,
        action_space=action,
    )


def reader() -> SpikingAgent:
    """Spikes and remaining potentials are added up outside the network."""
    space = spaces.Box(-1, 1, (2,))
    layer = Dense(weights(1, 4, 2), weights(2, 4), v_threshold=1.25, v_init=0.5)
    read = ResidualPotential(weights(3, 3, 4), weights(4, 3), 1.25, 0.5)
    return SpikingAgent(
        network=SpikingNetwork((layer,)),
        preprocessing=from_space(space),
        encoder=ConstantCurrent(),
        decoder=Decoder(read, Categorical((3,))),
        sim_steps=5,
        observation_space=space,
        action_space=spaces.Discrete(3),
    )


def feeler() -> SpikingAgent:
    """Receptive fields with centres and widths of their own."""
    space = spaces.Box(-3, 3, (2,))
    encoder = ReceptiveFields(
        weights(1, 2, 3), weights(2, 2, 3) ** 2 + 0.2, squash="tanh", spikes="equidistant"
    )
    network = SpikingNetwork(
        (Dense(weights(3, 5, 6), weights(4, 5)), Dense(weights(5, 2, 5), spiking=False))
    )
    return SpikingAgent(
        network=network,
        preprocessing=from_space(space),
        encoder=encoder,
        decoder=Decoder(FinalPotential(), Categorical((2,))),
        sim_steps=4,
        observation_space=space,
        action_space=spaces.Discrete(2),
    )


def balancer(**changes: Any) -> SpikingAgent:
    """Keeps CartPole up: pushes where the pole leans and falls."""
    weight = np.array([[-0.1, -0.5, -3.0, -2.0], [0.1, 0.5, 3.0, 2.0]])
    space = spaces.Box(
        np.float32([-4.8, -np.inf, -0.42, -np.inf]), np.float32([4.8, np.inf, 0.42, np.inf])
    )
    agent = SpikingAgent(
        network=SpikingNetwork((Dense(weight, spiking=False),)),
        preprocessing=from_space(space),
        encoder=ConstantCurrent(),
        decoder=Decoder(FinalPotential(), Categorical((2,))),
        sim_steps=2,
        observation_space=space,
        action_space=spaces.Discrete(2),
    )
    return replace(agent, **changes)


def catcher(**changes: Any) -> SpikingAgent:
    """A random network that plays Catch, badly."""
    space = spaces.Box(0, 255, (84, 84, 1), np.uint8)
    layers = (
        Dense(weights(0, 16, 84 * 84) * 0.2, weights(1, 16) * 0.2),
        Dense(weights(2, 3, 16), spiking=False),
    )
    parts: dict[str, Any] = {
        "network": SpikingNetwork(layers),
        "preprocessing": from_space(space),
        "encoder": ConstantCurrent(),
        "decoder": Decoder(FinalPotential(), Categorical((3,))),
        "sim_steps": 8,
        "observation_space": space,
        "action_space": spaces.Discrete(3),
        "provenance": {"environment": "spikerl/Catch-v0"},
    }
    return SpikingAgent(**{**parts, **changes})


AGENTS: dict[str, Callable[[], SpikingAgent]] = {
    maker.__name__: maker for maker in (pole, pixels, arm, walker, racer, thrower, reader, feeler)
}


def observations(agent: SpikingAgent, n: int = 6) -> Any:
    """n observations from the agent's space."""
    return observations_of(agent.observation_space, n, seed=5)


def observations_of(space: spaces.Space[Any], n: int, seed: int) -> Any:
    """n observations, each kind of entry as an array of its own."""
    space.seed(seed)
    drawn = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([one[key] for one in drawn]) for key in space.spaces}
    return np.stack(drawn)


def contents(agent: SpikingAgent, folder: Path) -> bytes:
    """The agent's file: equal bytes exactly when every part is equal to the last bit."""
    agent.save(folder / "contents")
    return (folder / "contents").read_bytes()
