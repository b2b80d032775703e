"""Parameters say what they were trained under, and are refused where something else was set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch
from gymnasium import spaces
from policies import box
from test_policies import KINDS, model, rows_of
from test_policy_algorithms import alone, made

from spikerl import policies
from spikerl.errors import SpikerlError
from spikerl.nn.layer import SpikingLayer
from spikerl.nn.rules import KEY

LIF = {"neuron": "LIF", "neuron_kwargs": {"decay": 0.75}}
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "fewer neurons": ({}, {"net_arch": [24, 12]}, r"net_arch was .*16\].* and is .*12\]"),
    "fewer layers": ({}, {"net_arch": [24]}, r"net_arch was .*\[24, 16\].* and is .*\[24\]"),
    "decay": (
        LIF,
        {"neuron": "LIF", "neuron_kwargs": {"decay": 0.5}},
        r"layer 1 was \{'decay': 0.75\} and is \{'decay': 0.5\}",
    ),
    "where a learned decay starts": (
        {"neuron": "PLIF"},
        {"neuron": "PLIF", "neuron_kwargs": {"decay": 0.5}},
        r"layer 1 was \{'decay': 0.75\} and is \{'decay': 0.5\}",
    ),
    "threshold": (
        {"neuron_kwargs": {"v_threshold": 2}},
        {},
        r"layer 1 was \{'v_threshold': 2.0\} and is \{'v_threshold': 1.0\}",
    ),
    "v_init": (
        {},
        {"neuron_kwargs": {"v_init": 0.0}},
        r"layer 1 was \{'v_init': 0.5\} and is \{'v_init': 0.0\}",
    ),
    "encoder": ({"encoder": "population"}, {}, "encoder was 'population' and is 'constant'"),
    "read-out": ({}, {"readout": "population"}, "readout was 'linear' and is 'population'"),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("kind", ["ppo", "dqn", "qrdqn", "sac", "tqc", "td3"])
def test_parameters_set_up_otherwise_are_refused(kind: str, what: str) -> None:
    first, second, message = OTHERS[what]
    saved = model(kind, 0, **first).get_parameters()
    with pytest.raises(SpikerlError, match=f"were trained under other rules.*{message}"):
        model(kind, 0, **second).set_parameters(saved)
    model(kind, 0, **first).set_parameters(saved)


@pytest.mark.parametrize("kind", ["dqn", "sac"])
@pytest.mark.parametrize(("was", "now"), [("batch", "care_bn"), ("care_bn", "batch")])
def test_parameters_of_another_norm_are_refused(kind: str, was: str, now: str) -> None:
    for other in (now, None):
        message = f"norm was '{was}' and is {other!r}"
        with pytest.raises(SpikerlError, match=message):
            model(kind, 0, norm=other).set_parameters(model(kind, 0, norm=was).get_parameters())


@pytest.mark.parametrize("kind", ["ppo", "a2c", "trpo", "sac", "tqc", "td3", "ddpg"])
@pytest.mark.parametrize("spikes", [False, True])
def test_parameters_of_another_critic_are_refused(kind: str, spikes: bool) -> None:
    saved = model(kind, 0, spiking_critic=spikes).get_parameters()
    with pytest.raises(SpikerlError, match=f"spiking_critic was {spikes} and is {not spikes}"):
        model(kind, 0, spiking_critic=not spikes).set_parameters(saved)
    other = {"pi": [24, 16], KINDS[kind][1].arch_parts[1]: [8]}
    with pytest.raises(SpikerlError, match=r"net_arch was .*\[24, 16\].* and is .*\[8\]"):
        model(kind, 0, spiking_critic=spikes, net_arch=other).set_parameters(saved)


def test_the_same_sizes_in_other_words_are_the_same() -> None:
    saved = model("ppo", 0, net_arch={"pi": [24]}).get_parameters()
    model("ppo", 0, net_arch={"vf": [], "pi": (24,)}).set_parameters(saved)
    saved = model("sac", 0, net_arch=[8]).get_parameters()
    model("sac", 0, net_arch={"pi": [8], "qf": [8]}).set_parameters(saved)


def test_ordinary_networks_beside_the_spiking_one_are_compared_too() -> None:
    saved = made("ProxyTD3Policy", "ProxyTD3", proxy_arch=[8]).get_parameters()
    with pytest.raises(SpikerlError, match=r"proxy_arch was \[8\] and is \[9\]"):
        made("ProxyTD3Policy", "ProxyTD3", proxy_arch=[9]).set_parameters(saved)
    saved = made("CommonModeDQNPolicy", "DQN", common_arch=[8]).get_parameters()
    with pytest.raises(SpikerlError, match=r"common_arch was \[8\] and is \[4\]"):
        made("CommonModeDQNPolicy", "DQN").set_parameters(saved)


def test_a_memory_of_another_size_is_refused() -> None:
    def one(**keywords: Any) -> Any:
        policy = policies.SpikingRecurrentPolicy
        return sb3_contrib.RecurrentPPO(policy, "CartPole-v1", policy_kwargs=keywords, device="cpu")

    saved = one(memory_size=8).get_parameters()
    with pytest.raises(SpikerlError, match=r"weights was \[8, 4\] and is \[6, 4\]"):
        one(memory_size=6).set_parameters(saved)
    with pytest.raises(SpikerlError, match=r"net_arch was \{'vf': \[64\]\} and is \{'vf': \[9\]\}"):
        one(memory_size=8, net_arch={"pi": [], "vf": [9]}).set_parameters(saved)


def test_other_kernels_of_the_same_shapes_out_are_refused() -> None:
    image = spaces.Box(0, 255, (3, 12, 12), np.uint8)

    def one(kernels: list[list[int]]) -> Any:
        extractor = {"kernels": kernels, "features_dim": 8}
        return policies.SpikingDQNPolicy(
            image, spaces.Discrete(2), lambda _: 1e-3, features_extractor_kwargs=extractor
        )

    saved = one([[4, 4, 2]]).state_dict()
    with pytest.raises(SpikerlError, match=r"'weights': \[4, 3, 4, 4\]\} and is .*\[4, 3, 3, 3\]"):
        one([[4, 3, 2]]).load_state_dict(saved)
    saved = one([[8, 4, 5]]).state_dict()
    with pytest.raises(SpikerlError, match=r"'stride': \[5, 5\]\} and is \{'stride': \[8, 8\]\}"):
        one([[8, 4, 8]]).load_state_dict(saved)


def test_a_policy_is_not_loaded_by_a_file_that_says_otherwise(tmp_path: Path) -> None:
    policy = alone(policies.SpikingSACPolicy, box(1))
    policy.save(tmp_path / "policy.pt")
    saved = torch.load(tmp_path / "policy.pt", weights_only=False)
    saved["data"]["net_arch"] = [9]
    torch.save(saved, tmp_path / "policy.pt")
    with pytest.raises(SpikerlError, match=r"net_arch was .*\[4\].* and is .*\[9\]"):
        type(policy).load(tmp_path / "policy.pt", device="cpu")


def test_what_is_learned_may_differ_from_what_was_set() -> None:
    trained = model("ppo", neuron="PLIF")
    layer = next(part for part in trained.policy.modules() if isinstance(part, SpikingLayer))
    assert abs(float(torch.sigmoid(layer.decay_logit.detach())) - 0.75) > 1e-6
    again = model("ppo", 0, neuron="PLIF")
    again.set_parameters(trained.get_parameters())
    rows = rows_of(trained)
    first, second = (m.predict(rows, deterministic=True)[0] for m in (trained, again))
    np.testing.assert_array_equal(first, second)


NEW = ("decay", "v_threshold", "v_init", "weights", "norm", "stride", "padding")


def as_before(saved: dict[str, Any]) -> dict[str, Any]:
    """Parameters as they were saved when policies had no rules and layers had fewer."""
    found = dict(saved)
    found.pop(KEY)
    for name in [name for name in found if name.endswith("." + KEY)]:
        rules = json.loads(bytes(found[name].tolist()))
        del rules["version"]
        for part in rules.values():
            if isinstance(part, dict):
                for new in NEW:
                    part.pop(new, None)
        text = json.dumps(rules).encode()
        found[name] = torch.tensor(list(text), dtype=torch.uint8)
    return found


def test_parameters_without_rules_or_with_fewer_are_taken() -> None:
    saved = model("sac", 0, **LIF).policy.state_dict()
    before = as_before(saved)
    model("sac", 0, **LIF).policy.load_state_dict(before)
    with pytest.raises(SpikerlError, match=r"'kind': 'LIF'\} and is \{'kind': 'IF'\}"):
        model("sac", 0).policy.load_state_dict(before)
    with pytest.raises(SpikerlError, match="layer 3 was None and is"):
        model("sac", 0, **LIF, net_arch=[24, 16, 16]).policy.load_state_dict(before)
    without = {name: value for name, value in saved.items() if not name.endswith(KEY)}
    model("sac", 0).policy.load_state_dict(without)
