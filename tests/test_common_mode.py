"""Common-mode correction: an ordinary network carries what all actions share, while training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from policies import Spaces
from test_policies import LAST, REPLAY, rows_of, undecided

import spikerl
from spikerl import HardwarePolicy
from spikerl.errors import ConversionError
from spikerl.policies import CommonModeDQNPolicy

KEYWORDS: dict[str, Any] = {
    "sim_steps": 4,
    "net_arch": [24, 16],
    "neuron": "LIF",
    "neuron_kwargs": {"reset": "zero"},
}


def corrected(steps: int = 200, env: Any = "CartPole-v1", **keywords: Any) -> Any:
    torch.set_num_threads(1)
    made = sb3.DQN(
        CommonModeDQNPolicy,
        env,
        seed=0,
        device="cpu",
        policy_kwargs={**KEYWORDS, **keywords},
        **REPLAY,  # type: ignore[arg-type]
    )
    return made.learn(steps) if steps else made


def values(made: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Q, Q_snn and C."""
    made.policy.set_training_mode(False)
    with torch.no_grad():
        x = torch.as_tensor(rows)
        found = made.q_net(x), made.q_net.spiking_values(x), made.q_net.common(x)
    return tuple(part.numpy() for part in found)  # type: ignore[return-value]


def test_the_mean_over_actions_is_the_ordinary_networks() -> None:
    made = corrected()
    q, spiking, shared = values(made, rows_of(made))
    np.testing.assert_allclose(q.mean(axis=1), shared[:, 0], atol=1e-5)
    np.testing.assert_allclose(np.diff(q), np.diff(spiking), atol=1e-5)
    assert np.abs(spiking.mean(axis=1) - shared[:, 0]).max() > 0.01


def test_the_actions_are_the_spiking_networks() -> None:
    made = corrected()
    rows = rows_of(made)
    _, spiking, _ = values(made, rows)
    hook = made.q_net.common.register_forward_hook(lambda *_: pytest.fail("C was asked to act"))
    chosen = made.predict(rows, deterministic=True)[0]
    hook.remove()
    np.testing.assert_array_equal(chosen, spiking.argmax(axis=1))


def test_both_networks_learn_and_the_target_is_corrected_too() -> None:
    before, after = (dict(corrected(n).policy.named_parameters()) for n in (0, 200))
    for name in ("q_net.q_net.0.layers.0.synapses.weight", "q_net.common.0.weight"):
        assert not torch.equal(before[name], after[name]), name
    made = corrected(0)
    asked: list[int] = []
    made.q_net_target.common.register_forward_hook(lambda *_: asked.append(1))
    made.learn(70)
    assert asked


def test_trained_with_delays_it_acts_the_same_on_nest() -> None:
    pytest.importorskip("nest", reason="NEST is not installed")
    made = corrected(neuron="IF", neuron_kwargs={"delay_steps": 1})
    rows = rows_of(made, 40)
    undecided(made, LAST["dqn"])
    theirs = made.predict(rows, deterministic=True)[0]
    assert len(np.unique(theirs)) == 2
    with HardwarePolicy(spikerl.convert(made, observations=rows), "nest") as deployed:
        np.testing.assert_array_equal(deployed.predict(rows)[0], theirs)


def test_the_correction_stays_behind(tmp_path: Path) -> None:
    made = corrected(norm="care_bn", encoder="population")
    rows = rows_of(made)
    undecided(made, LAST["dqn"])
    theirs = made.predict(rows, deterministic=True)[0]
    assert len(np.unique(theirs)) == 2
    agent = spikerl.convert(made, observations=rows)
    assert [layer.n_out for layer in agent.network.layers] == [24, 16, 2]
    for backend in ("cpu", "reference"):
        with HardwarePolicy(agent, backend) as deployed:
            np.testing.assert_array_equal(deployed.predict(rows)[0], theirs)
    made.save(tmp_path / "model.zip")
    again = sb3.DQN.load(tmp_path / "model.zip", device="cpu")
    np.testing.assert_array_equal(again.predict(rows, deterministic=True)[0], theirs)
    for one, other in zip(values(made, rows), values(again, rows), strict=True):
        np.testing.assert_array_equal(one, other)
    read = spikerl.convert(tmp_path / "model.zip", observations=rows)
    assert read.network.fingerprint() == agent.network.fingerprint()


def test_images_have_an_ordinary_extractor_beside_the_spiking_one() -> None:
    env = Spaces(spaces.Box(0, 255, (1, 36, 36), np.uint8), spaces.Discrete(3))
    made = sb3.DQN(
        CommonModeDQNPolicy,
        env,
        seed=0,
        policy_kwargs={
            "sim_steps": 2,
            "common_arch": [8],
            "features_extractor_kwargs": {"features_dim": 16},
        },
        **REPLAY,  # type: ignore[arg-type]
    )
    rows = np.random.default_rng(0).integers(0, 256, size=(24, 1, 36, 36), dtype=np.uint8)
    made.learn(60)
    agent = spikerl.convert(made, observations=rows)
    with HardwarePolicy(agent) as deployed:
        theirs = made.predict(rows, deterministic=True)[0]
        np.testing.assert_array_equal(deployed.predict(rows)[0], theirs)


def test_more_behind_the_spiking_values_is_still_noticed() -> None:
    made = corrected(0)
    inner = made.q_net._predict
    made.q_net._predict = lambda x, deterministic=True: 1 - inner(x)
    with pytest.raises(ConversionError, match="do not reproduce the policy's actions"):
        spikerl.convert(made, observations=rows_of(made))
