"""Spiking policies saved, loaded, resumed and copied: as they were, or refused."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import stable_baselines3 as sb3
from test_policies import KINDS, model, rows_of

import spikerl
from spikerl.errors import SpikerlError
from spikerl.policies import SpikingActorCriticPolicy


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_comes_back_as_it_was(kind: str, tmp_path: Path) -> None:
    trained = model(kind, neuron="PLIF", neuron_kwargs={"decay": 0.6, "slope": 3.0})
    trained.save(tmp_path / "model.zip")
    again = type(trained).load(tmp_path / "model.zip", device="cpu")
    rows = rows_of(trained)
    first, second = (m.predict(rows, deterministic=True)[0] for m in (trained, again))
    np.testing.assert_array_equal(first, second)
    agents = [spikerl.convert(m, observations=rows) for m in (trained, again)]
    assert agents[0].network.fingerprint() == agents[1].network.fingerprint()
    again.set_env(trained.get_env())
    again.learn(80)
    again.set_parameters(trained.get_parameters())
    np.testing.assert_array_equal(again.predict(rows, deterministic=True)[0], first)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_other_rules_are_refused_by_what_differs(kind: str, tmp_path: Path) -> None:
    trained = model(kind, 0, neuron="LIF", neuron_kwargs={"reset": "zero", "slope": 2.0})
    rules = {"neuron": "LIF", "neuron_kwargs": {"reset": "zero", "slope": 5.0}}
    model(kind, 0, **rules).set_parameters(trained.get_parameters())  # only the gradient differs
    for other, what in (
        ({**rules, "sim_steps": 7}, r"sim_steps was \d and is 7"),
        ({"neuron": "IF"}, "'kind': 'LIF'.* and is .*'kind': 'IF'"),
        ({"neuron": "LIF"}, "'reset': 'zero'.* and is .*'reset': 'subtract'"),
    ):
        with pytest.raises(SpikerlError, match=f"trained under other rules.*{what}"):
            model(kind, 0, **other).set_parameters(trained.get_parameters())
    trained.save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match="policy kwargs do not equal"):
        type(trained).load(tmp_path / "model.zip", policy_kwargs={"sim_steps": 7})


def test_a_policy_alone_is_saved_and_loaded_with_its_keywords(tmp_path: Path) -> None:
    policy = model("ppo", neuron="LIF", neuron_kwargs={"reset": "zero"}).policy
    policy.save(tmp_path / "policy.pt")
    again = SpikingActorCriticPolicy.load(tmp_path / "policy.pt", device="cpu")
    rows = rows_of(model("ppo", 0))
    np.testing.assert_array_equal(
        policy.predict(rows, deterministic=True)[0], again.predict(rows, deterministic=True)[0]
    )
    assert again.neuron == policy.neuron


@pytest.mark.parametrize("kind", ["ppo", "a2c", "trpo", "dqn", "qrdqn", "tqc", "td3", "ddpg"])
def test_a_checkpoint_of_a_spiking_policy_is_converted_from_its_file(
    kind: str, tmp_path: Path
) -> None:
    trained = model(kind)
    trained.save(tmp_path / "model.zip")
    rows = rows_of(trained)
    agent = spikerl.convert(tmp_path / "model.zip", observations=rows)
    assert agent.provenance["source"]["algorithm"] == kind
    again = spikerl.convert(trained, observations=rows)
    assert agent.network.fingerprint() == again.network.fingerprint()


def test_resuming_with_another_neuron_is_refused_by_sb3(tmp_path: Path) -> None:
    trained = model("ppo")
    trained.save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match="policy kwargs do not equal"):
        sb3.PPO.load(tmp_path / "model.zip", device="cpu", policy_kwargs={"sim_steps": 8})


@pytest.mark.parametrize("kind", ["dqn", "qrdqn", "td3", "sac"])
def test_a_policy_in_training_can_be_copied(kind: str) -> None:
    trained = model(kind)
    rows = rows_of(trained)
    twin = deepcopy(trained.policy)
    theirs = trained.policy.predict(rows, deterministic=True)[0]
    np.testing.assert_array_equal(twin.predict(rows, deterministic=True)[0], theirs)
