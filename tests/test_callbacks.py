"""ConversionCallback: agents made during SB3 training, which goes on as if it were not there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from policies import model
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from training import OFF, QUICK, SWING, learn

import spikerl
from spikerl import callbacks
from spikerl.callbacks import ConversionCallback
from spikerl.errors import ConversionWarning

KINDS: dict[str, tuple[str, dict[str, Any], int, dict[str, Any]]] = {
    "ppo": ("ppo", {}, 192, QUICK),
    "dqn": ("dqn", {**OFF, "train_freq": 4}, 120, QUICK),
    "sac": ("sac", {**OFF, "train_freq": 4}, 60, {**QUICK, "observations": SWING}),
}


# --- what it makes --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_is_made_logged_and_saved_when_training_ends(kind: str, tmp_path: Path) -> None:
    name, arguments, steps, quick = KINDS[kind]
    callback = ConversionCallback(path=tmp_path / "new" / "folder", **quick)
    source = model(name, **arguments)
    rows = learn(source, callback, steps)
    assert not callback.failures
    assert callback.last is not None
    ((step, faithful),) = rows.of("spiking/action_error" if kind == "sac" else "spiking/agreement")
    report = callback.last.agent.report
    assert report is not None
    assert (step, faithful) == (source.num_timesteps, report.faithfulness.value)
    # the final weights, not those before the last update
    again = spikerl.convert(source, observations=quick["observations"], sim_steps=8)
    assert again.network.fingerprint() == callback.last.agent.network.fingerprint()
    with spikerl.HardwarePolicy(again, seed=0) as policy:
        spec = source.get_env().get_attr("spec")[0]  # type: ignore[union-attr]
        result = spikerl.evaluation.evaluate(policy, lambda: gym.make(spec.id), episodes=2)
    assert rows.of("spiking/return") == [(step, np.mean(result.spiking.returns))]
    assert rows.of("spiking/synaptic_operations") == [(step, result.synaptic_operations)]
    assert rows.of("spiking/rate") == [(step, pytest.approx(np.mean(result.rates)))]
    for file in ("best.spk", "last.spk"):
        saved = spikerl.SpikingAgent.load(tmp_path / "new" / "folder" / file)
        assert saved.network.fingerprint() == again.network.fingerprint()
        assert saved.provenance["source"]["timesteps"] == step


def test_every_so_many_steps_and_at_the_end() -> None:
    callback = ConversionCallback(every=100, **QUICK)
    rows = learn(model("dqn", **OFF), callback, 240)
    assert [step for step, _ in rows.of("spiking/agreement")] == [100, 200, 240]
    # on-policy training updates the weights once more after the last of its steps
    rows = learn(model("ppo"), ConversionCallback(every=64, **QUICK), 128)
    assert [step for step, _ in rows.of("spiking/agreement")] == [64, 128, 128]


def test_training_may_go_on_with_the_same_callback() -> None:
    callback = ConversionCallback(**QUICK)
    source = model("ppo")
    learn(source, callback, 64)
    first = callback.last
    rows = learn(source, callback, 64)
    assert [step for step, _ in rows.of("spiking/agreement")] == [64]
    assert callback.last is not first
    callback.on_training_end()  # as rl-zoo does once more
    assert rows.of("spiking/agreement") == rows.of("spiking/agreement")[:1]
    ConversionCallback(**QUICK).on_training_end()  # there was no training: nothing happens


def of_eval(where: str, callback: ConversionCallback, **arguments: Any) -> EvalCallback:
    env = Monitor(gym.make("CartPole-v1"))
    return EvalCallback(
        env, eval_freq=64, n_eval_episodes=2, verbose=0, **{where: callback}, **arguments
    )


def test_it_follows_every_evaluation() -> None:
    callback = ConversionCallback("eval", **QUICK)
    rows = learn(model("ppo"), of_eval("callback_after_eval", callback), 192)
    assert [step for step, _ in rows.of("spiking/agreement")] == [64, 128, 192]
    assert [step for step, _ in rows.of("eval/mean_reward")] == [64, 128, 192]


def test_it_follows_every_new_best(tmp_path: Path) -> None:
    callback = ConversionCallback(path=tmp_path, **QUICK)
    outer = of_eval("callback_on_new_best", callback, log_path=str(tmp_path))
    rows = learn(model("ppo"), outer, 256)
    means = np.load(tmp_path / "evaluations.npz")["results"].mean(axis=1)
    best = [64 * (i + 1) for i, mean in enumerate(means) if mean > max(means[:i], default=-1)]
    assert [step for step, _ in rows.of("spiking/agreement")] == best


def test_other_callbacks_that_hold_one_work_as_well() -> None:
    rows = learn(model("ppo"), EveryNTimesteps(100, ConversionCallback(**QUICK)), 256)
    assert [step for step, _ in rows.of("spiking/agreement")] == [100, 200]


def test_the_best_is_by_return_then_faithfulness_and_of_equals_the_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = iter([(5.0, 0.9), (9.0, 0.8), (9.0, 0.7), (9.0, 0.8), (1.0, 1.0)])
    convert = ConversionCallback._convert

    def made(self: ConversionCallback) -> callbacks.Conversion:
        returned, agreement = next(results)
        found = convert(self)
        figures = {"agreement": agreement, "return": returned}
        return callbacks.Conversion(found.timesteps, figures, found.agent)

    monkeypatch.setattr(ConversionCallback, "_convert", made)
    callback = ConversionCallback(every=64, path=tmp_path, **QUICK)
    learn(model("ppo"), callback, 256)
    assert next(results, None) is None
    assert callback.best is not None
    assert callback.best.timesteps == 256
    assert callback.best.figures == {"agreement": 0.8, "return": 9.0}
    timesteps = {
        file: spikerl.SpikingAgent.load(tmp_path / f"{file}.spk").network.fingerprint()
        for file in ("best", "last")
    }
    assert timesteps["best"] == callback.best.agent.network.fingerprint() != timesteps["last"]


def test_a_smaller_action_error_is_better() -> None:
    def of(error: float) -> tuple[float, float]:
        return callbacks.Conversion(0, {"action_error": error}, None).merit  # type: ignore[arg-type]

    assert of(0.5) > of(2.0)


# --- training is not disturbed --------------------------------------------------------------------


class Draws(BaseCallback):
    """Draws from the global generators at every step, and does not put them back."""

    def _on_step(self) -> bool:
        np.random.random()
        torch.rand(1)
        return True


@pytest.mark.parametrize("kind", KINDS)
def test_training_ends_with_the_same_weights_as_without_it(kind: str) -> None:
    name, arguments, steps, quick = KINDS[kind]

    def trained(callback: BaseCallback | None) -> torch.Tensor:
        source = model(name, **arguments)  # making it seeds the global generators
        learn(source, callback, steps)
        return torch.cat([part.ravel() for part in source.policy.state_dict().values()])

    callback = ConversionCallback(every=steps // 3, encoder="poisson", **quick)
    plain, watched = trained(None), trained(callback)
    assert callback.last is not None
    assert not callback.failures
    assert torch.equal(plain, watched)
    # the comparison would notice: numbers drawn in between change the weights
    assert not torch.equal(plain, trained(Draws()))


def test_chance_and_modes_are_put_back_whatever_a_conversion_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = model("ppo")
    callback = ConversionCallback(**QUICK)
    callback.init_callback(source)
    source.set_logger(Logger(None, []))

    def wild(self: ConversionCallback) -> None:
        random.random(), np.random.random(), torch.rand(1)
        self.model.policy.set_training_mode(not self.model.policy.training)
        self.model.policy.action_net.train()
        raise RuntimeError("and then it fails")

    def state() -> Any:
        modes = [part.training for part in source.policy.modules()]
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), modes

    monkeypatch.setattr(ConversionCallback, "_convert", wild)
    source.policy.set_training_mode(False)
    source.policy.mlp_extractor.train()
    before = state()
    with pytest.warns(ConversionWarning, match="and then it fails"):
        callback.on_training_end()
    after = state()
    assert torch.equal(before[2], after[2])
    assert (before[0], before[1], before[3]) == (after[0], after[1], after[3])


class Counted(gym.Wrapper[Any, Any, Any, Any]):
    """Counts the steps of every environment made from it."""

    total = 0

    def step(self, action: Any) -> Any:
        type(self).total += 1
        return super().step(action)


def test_the_environment_in_training_is_not_stepped() -> None:
    Counted.total = 0
    env = DummyVecEnv([lambda: Counted(gym.make("CartPole-v1"))])
    source = model("ppo")
    source.set_env(env)
    # a copy has no Counted around it only where one was asked for
    callback = ConversionCallback(env="CartPole-v1", n_calibration=100, sim_steps=8, episodes=2)
    learn(source, callback, 64)
    assert callback.last is not None
    assert "return" in callback.last.figures
    assert Counted.total == 64
