"""The dry run of a Xylo chip, and the hand-over to a board: neither needs the simulator."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, PackagePath
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import spikerl
from spikerl.agent import SpikingAgent
from spikerl.backends import xylo_board
from spikerl.backends.xylo_board import configuration, missing, specification
from spikerl.backends.xylo_dry_run import dry_run
from spikerl.backends.xylo_plan import plan
from spikerl.decoding import Decoder, FinalPotential, Gaussian
from spikerl.encoding import ConstantCurrent
from spikerl.errors import BackendError, UnsupportedNetwork
from spikerl.network import Dense, SpikingNetwork
from spikerl.preprocessing import from_space
from spikerl.reference import simulate

AUDIO_2_SUPPORT = "rockpool.devices.xylo.syns61201"


@pytest.fixture(scope="module")
def agent() -> SpikingAgent:
    return spikerl.convert(
        "zoo/agents/dqn/CartPole-v1_1", target="xylo", sim_steps=48, n_calibration=1000
    )


def observations(n: int = 150) -> np.ndarray:
    scale = np.array([0.2, 0.3, 0.03, 0.3])
    return (np.random.default_rng(0).normal(size=(n, 4)) * scale).astype(np.float32)


def test_the_dry_run_parts_rounding_from_the_rules_of_the_chip(agent: SpikingAgent) -> None:
    found = dry_run(agent, observations())
    drive = agent.encoder.encode(agent.preprocessing(observations()), 48, np.random.default_rng(0))
    asked, held = (
        agent.decoder.values(simulate(net, drive)).argmax(axis=1)
        for net in (agent.network, found.network)
    )
    assert found.rounding.value == (asked == held).mean()
    assert 0.85 < found.rules.value < 1.0
    assert 0.85 < found.both.value < 1.0
    assert found.network.fingerprint() == plan(agent.network).effective.fingerprint()
    assert all(0 < rate < 0.05 for rate in found.rates)
    assert 0 < found.saturated < 0.6
    text = str(found)
    assert "Xylo-Audio 2:\n  9 input channels" in text
    assert "the chip's rules against the contract" in text
    plain = found.to_dict()
    assert plain["both"]["value"] == found.both.value
    assert plain["uses"][1]["found"] == 128


def test_continuous_actions_are_compared_in_per_cent_of_their_range() -> None:
    rng = np.random.default_rng(0)
    layers = [Dense(rng.normal(0, 0.5, size), delay_steps=2) for size in ((8, 3), (8, 8))]
    box = spaces.Box(-2, 2, (1,))
    pusher = SpikingAgent(
        network=SpikingNetwork((*layers, Dense(rng.normal(0, 1, (1, 8)), spiking=False))),
        preprocessing=from_space(spaces.Box(-1, 1, (3,))),
        encoder=ConstantCurrent(),
        decoder=Decoder(FinalPotential(), Gaussian(box.low, box.high)),
        sim_steps=50,
        observation_space=spaces.Box(-1, 1, (3,)),
        action_space=box,
    )
    found = dry_run(pusher, rng.uniform(-1, 1, (40, 3)).astype(np.float32))
    assert found.continuous
    assert "% of their range" in str(found)
    assert 0 < found.both.value < 3
    assert found.both.n == 40


def test_the_dry_run_refuses_what_does_not_fit(agent: SpikingAgent) -> None:
    zero = [replace(layer, reset="zero") for layer in agent.network.neuron_layers]
    with pytest.raises(UnsupportedNetwork, match="layer 1: reset='zero' is not supported"):
        dry_run(replace(agent, network=SpikingNetwork(tuple(zero))), observations())


def test_a_specification_has_the_shapes_and_ranges_rockpool_takes(agent: SpikingAgent) -> None:
    found = specification(agent.network)
    core = plan(agent.network).core
    assert found["weights_in"].shape == (9, 128, 2)
    assert found["weights_rec"].shape == (128, 128, 2)
    assert found["weights_out"].shape == (128, 4)
    np.testing.assert_array_equal(found["weights_rec"][:, :, 1], core.weights_rec[1])
    for name, value in found.items():
        bits = 8 if name.startswith("weights") else 16
        assert np.abs(value).max() < 2 ** (bits - 1)
        assert np.asarray(value).dtype.kind == "i"
    with pytest.raises(UnsupportedNetwork, match="delay_steps must be at least 2"):
        specification(SpikingNetwork((Dense(np.eye(2)), Dense(np.eye(2), spiking=False))))


def installed(monkeypatch: pytest.MonkeyPatch, **files: list[str] | None) -> None:
    """Pretend that these packages are installed, with these files."""

    def distribution(name: str) -> Any:
        if files.get(name) is None:
            raise PackageNotFoundError(name)
        return SimpleNamespace(files=[PackagePath(file) for file in files[name] or ()])

    monkeypatch.setattr(xylo_board, "distribution", distribution)


def test_what_a_board_needs_is_looked_up_and_never_imported(
    agent: SpikingAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] in ("samna", "rockpool")]:
        monkeypatch.delitem(sys.modules, module)  # of tests before
    installed(monkeypatch)
    assert "Rockpool is not installed" in missing()
    assert "samna, the board's drivers, is not installed" in missing()
    with pytest.raises(BackendError, match=r"Xylo-Audio 2 cannot be made here: .*samna"):
        configuration(agent.network)
    installed(monkeypatch, rockpool=["rockpool/__init__.py"], samna=["samna/__init__.py"])
    assert "stub of PyPI" in missing()
    assert "Rockpool" not in missing()
    with pytest.raises(BackendError, match="stub of PyPI"):
        configuration(agent.network)
    assert not {"samna", "rockpool"} & set(sys.modules)


def test_a_configuration_is_made_by_rockpool_from_these_numbers(
    agent: SpikingAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, rockpool=["rockpool/__init__.py"], samna=["samna/core.so"])
    assert missing() == ""
    given: list[dict[str, Any]] = []
    support: Any = ModuleType(AUDIO_2_SUPPORT)
    verdict = ["made", True, ""]

    def made(**numbers: Any) -> Any:
        given.append(numbers)
        return tuple(verdict)

    support.config_from_specification = made
    parts = AUDIO_2_SUPPORT.split(".")
    for k in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:k]), ModuleType(parts[k - 1]))
    monkeypatch.setitem(sys.modules, AUDIO_2_SUPPORT, support)
    assert configuration(agent.network) == "made"
    assert given[0].keys() == specification(agent.network).keys()
    verdict[1:] = [False, "too many fan-outs"]
    with pytest.raises(BackendError, match="invalid: too many fan-outs"):
        configuration(agent.network)
