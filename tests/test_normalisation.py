"""Normalised currents: the moments that are kept, when, and that nothing of them is left over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.utils import polyak_update
from test_policies import REPLAY, SHORT, assert_same_actions, model, rows_of
from torch import nn

import spikerl
from spikerl import HardwarePolicy
from spikerl.errors import SpikerlError
from spikerl.nn.neurons import Neuron
from spikerl.nn.normalisation import EPSILON, NORMS, BatchNorm, CareBatchNorm
from spikerl.nn.stack import SpikingMLP, SpikingStack
from spikerl.policies import RecalibrateNorm, SpikingActorCriticPolicy, SpikingDQNPolicy
from spikerl.policies.recalibration import recalibrate

OFF = ("dqn", "qrdqn", "sac", "tqc", "td3", "ddpg")


def norms(module: nn.Module) -> list[BatchNorm]:
    return [part for part in module.modules() if isinstance(part, BatchNorm)]


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(1.0, 2.0, shape).astype(np.float32))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", OFF)
def test_a_normalised_policy_is_deployed_exactly(kind: str, norm: str) -> None:
    trained = model(kind, norm=norm)
    rows = rows_of(trained)
    theirs = trained.predict(rows, deterministic=True)[0]
    agent = spikerl.convert(trained, observations=rows)
    assert [type(layer).__name__ for layer in agent.network.layers] == ["Dense"] * 3
    for backend in ("cpu", "reference"):
        with HardwarePolicy(agent, backend) as deployed:
            if theirs.dtype.kind == "f":
                assert_same_actions(deployed.predict(rows)[0], theirs)
            else:
                np.testing.assert_array_equal(deployed.predict(rows)[0], theirs)


def test_everything_together_is_deployed_exactly() -> None:
    trained = model(
        "td3",
        norm="care_bn",
        encoder="population",
        readout="population",
        neuron="PLIF",
        neuron_kwargs={"weight_bits": 6, "delay_steps": 1, "reset": "zero"},
    )
    rows = rows_of(trained)
    agent = spikerl.convert(trained, observations=rows)
    with HardwarePolicy(agent) as deployed:
        assert_same_actions(deployed.predict(rows)[0], trained.predict(rows, deterministic=True)[0])
    for layer in agent.network.layers[:-1]:
        weight = layer.weight  # type: ignore[union-attr]
        assert len(np.unique(weight)) <= 63


@pytest.mark.parametrize("kind", OFF)
def test_moments_gains_and_shifts_move_with_training(kind: str) -> None:
    trained = model(kind, norm="care_bn")
    acting = {"dqn": "q_net", "qrdqn": "quantile_net"}.get(kind, "actor")
    found = norms(getattr(trained.policy, acting))
    assert len(found) == 2
    for norm in found:
        assert (norm.mean != 0).all()
        assert (norm.var != 1).all()
        assert (norm.var > 0).all()
        assert not torch.allclose(norm.gain, torch.full_like(norm.gain, 0.5))
        assert not torch.allclose(norm.shift, torch.full_like(norm.shift, 0.5))


def test_moments_move_only_where_gradients_are_wanted_in_training() -> None:
    norm = CareBatchNorm(3)
    for training, gradients, measuring in (
        (True, True, True),
        (True, False, False),
        (False, True, False),
        (False, False, False),
    ):
        norm.train(training)
        with torch.set_grad_enabled(gradients):
            assert norm.measuring == measuring


def test_acting_and_judging_leave_the_moments_alone() -> None:
    trained: Any = model("td3", norm="care_bn")
    kept = [norm.mean.clone() for norm in norms(trained.policy)]
    trained.predict(rows_of(trained))
    trained.policy.set_training_mode(True)
    with torch.no_grad():
        trained.actor(torch.as_tensor(rows_of(trained)))
        trained.actor_target(torch.as_tensor(rows_of(trained)))
    for norm, was in zip(norms(trained.policy), kept, strict=True):
        assert torch.equal(norm.mean, was)
    trained.actor(torch.as_tensor(rows_of(trained)))
    assert not torch.equal(norms(trained.actor)[0].mean, kept[0])


def test_a_target_actor_averages_the_moments_as_its_weights() -> None:
    trained: Any = model("td3", norm="care_bn")
    trained.tau = 0.25
    for p in trained.actor.parameters():
        p.data += 1.0
    pairs = [*zip(trained.actor.parameters(), trained.actor_target.parameters(), strict=True)]
    moments = {id(norm.mean) for norm in norms(trained.actor)}
    assert sum(id(p) in moments for p, _ in pairs) == 2
    before = [(p.detach().clone(), q.detach().clone()) for p, q in pairs]
    polyak_update(trained.actor.parameters(), trained.actor_target.parameters(), 0.25)
    for (p, q), (_, q_now) in zip(before, pairs, strict=True):
        torch.testing.assert_close(q_now.detach(), 0.75 * q + 0.25 * p)
    assert trained.actor_batch_norm_stats == []


def test_confidence_adaptive_moments_by_hand() -> None:
    norm = CareBatchNorm(1)
    mean, var, drift_mean, drift_var = 0.0, 1.0, 0.0, 0.0
    for seed in range(4):
        current = drawn(seed, 3, 20, 1)
        m, v = float(current.mean()), float(current.double().var(correction=0))
        drift_mean = 0.8 * drift_mean + 0.2 * (m - mean) ** 2
        mean += drift_mean / (drift_mean + v / 19) * (m - mean)
        drift_var = 0.8 * drift_var + 0.2 * (v - var) ** 2
        var += drift_var / (drift_var + 2 * v**2 / 19) * (v - var)
        found = norm.moments(current)
        assert float(found[0]) == pytest.approx(m, rel=1e-5)
        assert float(found[1]) == pytest.approx(v, rel=1e-5)
    assert float(norm.mean) == pytest.approx(mean, rel=1e-4)
    assert float(norm.var) == pytest.approx(var, rel=1e-4)


def test_a_neuron_that_never_changes_leaves_no_nan() -> None:
    norm = CareBatchNorm(1)
    for _ in range(400):
        norm.moments(torch.full((2, 8, 1), 3.0))
    assert float(norm.mean) == pytest.approx(3.0)
    assert float(norm.var) == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(torch.stack([*norm.folded(torch.ones(1, 1), None)[0]])).all()


def test_plain_batch_normalisation_moves_a_tenth_of_the_way() -> None:
    norm = BatchNorm(2)
    current = drawn(0, 4, 30, 2)
    norm.moments(current)
    torch.testing.assert_close(norm.mean.data, 0.1 * current.mean(dim=(0, 1)))
    torch.testing.assert_close(norm.var.data, 0.9 + 0.1 * current.var(dim=(0, 1), correction=0))


@pytest.mark.parametrize("bits", [None, 8])
def test_batches_are_normalised_by_their_own_moments_with_gradients_through_them(
    bits: int | None,
) -> None:
    stack = SpikingMLP(5, [4], sim_steps=3, neuron=Neuron(weight_bits=bits), norm=CareBatchNorm)
    layer: Any = stack.layers[0]
    x = drawn(0, 1, 64, 5)
    y = layer.current(x)
    near = 0.05 if bits else 1e-4
    torch.testing.assert_close(y.mean((0, 1)), torch.full((4,), 0.5), atol=near, rtol=0)
    torch.testing.assert_close(y.std((0, 1)), torch.full((4,), 0.5), atol=near + 0.01, rtol=0)
    # a bias in front of the normalisation cannot matter, so its gradient must vanish
    (y**3).sum().backward()
    scale = float(layer.synapses.weight.grad.abs().max())
    assert float(layer.synapses.bias.grad.abs().max()) < 1e-3 * scale
    assert scale > 0


def test_folding_changes_nothing() -> None:
    norm = BatchNorm(3)
    with torch.no_grad():
        for part in (norm.gain, norm.shift, norm.mean):
            part.copy_(drawn(1, 3))
        norm.var.copy_(drawn(2, 3) ** 2)
    weight, bias, x = drawn(3, 3, 6), drawn(4, 3), drawn(5, 10, 6)
    folded, shifted = norm.folded(weight, bias)
    plain = x @ weight.T + bias
    wanted = norm.gain * (plain - norm.mean) / torch.sqrt(norm.var + EPSILON) + norm.shift
    torch.testing.assert_close(x @ folded.T + shifted, wanted, rtol=1e-4, atol=1e-4)


def test_gathered_moments_are_those_of_all_batches_at_once() -> None:
    norm = CareBatchNorm(4)
    norm.gather()
    parts = [drawn(seed, 3, rows, 4) for seed, rows in enumerate((8, 30, 5))]
    for part in parts:
        norm.moments(part)
    norm.settle()
    together = torch.cat([part.flatten(0, 1) for part in parts])
    torch.testing.assert_close(norm.mean.data, together.mean(0))
    torch.testing.assert_close(norm.var.data, together.var(0, correction=0))


@pytest.mark.parametrize("kind", ["dqn", "sac", "td3"])
def test_recalibrated_moments_are_those_of_the_present_weights(kind: str) -> None:
    trained: Any = model(kind, norm="care_bn", encoder="population")
    with torch.no_grad():
        for norm in norms(trained.policy):
            norm.mean.add_(1.0)
    trained.policy.set_training_mode(False)
    recalibrate(trained, n_batches=20, batch_size=200)
    acting = getattr(trained.policy, "actor" if kind != "dqn" else "q_net")
    stack = next(part for part in acting.modules() if isinstance(part, SpikingStack))
    buffer = trained.replay_buffer
    rows = torch.as_tensor(buffer.observations[: buffer.pos, 0])
    assert stack.encoder is not None
    with torch.no_grad():
        first: Any = stack.layers[0]
        drive = stack.encoder(rows, stack.sim_steps)
        plain = first.synapses(drive)
    deviation = torch.sqrt(plain.var((0, 1)))
    away = (first.norm.mean - plain.mean((0, 1))).abs() / deviation
    assert float(away.max()) < 0.15
    assert not first.norm.measuring
    assert not trained.policy.training


def test_the_callback_recalibrates_in_time_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: Any = model("td3", 0, norm="care_bn")
    times: list[int] = []
    monkeypatch.setattr(
        "spikerl.policies.recalibration.recalibrate",
        lambda made, *_: times.append(made.num_timesteps),
    )
    trained.learn(250, callback=RecalibrateNorm(every=100))
    assert times == [100, 200, 250]


def test_a_normalised_model_comes_back_with_its_moments(tmp_path: Path) -> None:
    trained: Any = model("sac", norm="care_bn")
    trained.save(tmp_path / "model.zip")
    again: Any = type(trained).load(tmp_path / "model.zip", device="cpu")
    for one, other in zip(norms(trained.policy), norms(again.policy), strict=True):
        assert isinstance(other, CareBatchNorm)
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    rows = rows_of(trained)
    np.testing.assert_array_equal(
        again.predict(rows, deterministic=True)[0], trained.predict(rows, deterministic=True)[0]
    )
    agent = spikerl.convert(tmp_path / "model.zip", observations=rows)
    own = spikerl.convert(trained, observations=rows)
    assert agent.network.fingerprint() == own.network.fingerprint()


def test_what_cannot_be_normalised_is_refused() -> None:
    with pytest.raises(SpikerlError, match="no norm 'layer'; there are batch, care_bn"):
        model("sac", 0, norm="layer")
    with pytest.raises(SpikerlError, match="see other probabilities than the rollouts"):
        sb3.PPO(SpikingActorCriticPolicy, "CartPole-v1", policy_kwargs={"norm": "batch"}, **SHORT)  # type: ignore[arg-type]
    with pytest.raises(SpikerlError, match="batches of at least 2 rows to learn from"):
        CareBatchNorm(3).moments(torch.zeros(4, 1, 3))
    with pytest.raises(SpikerlError, match="the policy has no norm to recalibrate"):
        recalibrate(model("sac", 0))
    with pytest.raises(SpikerlError, match=r"(?s)every must be.*batch_size must be.*>= 2"):
        RecalibrateNorm(every=0, batch_size=1)


def test_a_q_network_learns_from_batches_and_aims_by_kept_moments() -> None:
    made: Any = sb3.DQN(
        SpikingDQNPolicy,
        "CartPole-v1",
        seed=0,
        policy_kwargs={"norm": "care_bn", "net_arch": [8]},
        **REPLAY,  # type: ignore[arg-type]
    )
    target = norms(made.q_net_target)[0]
    made.learn(120)
    assert torch.equal(target.mean, torch.zeros(8))  # until the hard copy
    made.target_update_interval = 1
    made._on_step()
    assert torch.equal(target.mean, norms(made.q_net)[0].mean)
