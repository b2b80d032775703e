"""ConversionCallback where environments cannot be copied, where it fails, or is misused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from policies import model
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize
from training import OFF, QUICK, Unregistered, learn, unregistered

import spikerl
from spikerl.backends.reference import ReferenceBackend
from spikerl.callbacks import ConversionCallback
from spikerl.errors import ConversionError, ConversionWarning

# --- where it acts --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 3])
def test_where_no_copy_can_be_made_the_evaluation_environment_is_used(n_envs: int) -> None:
    callback = ConversionCallback(n_calibration=100, sim_steps=8, episodes=3)
    env = DummyVecEnv([lambda: Monitor(Unregistered())] * n_envs)
    outer = EvalCallback(env, callback_after_eval=callback, eval_freq=64, verbose=0)
    rows = learn(unregistered("ppo"), outer, 64)
    assert callback.failures == []
    assert rows.of("spiking/return") == [(64, 15.0)]
    assert rows.of("spiking/synaptic_operations")[0][1] > 0


class Mine(VecEnvWrapper):
    """Changes nothing, which nobody but the user knows."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.venv.step_wait()


def wrapped() -> BaseAlgorithm:
    """There is a spec, but what wraps the VecEnv cannot be copied."""
    env = Mine(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    return DQN("MlpPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [16]}, **OFF)


@pytest.mark.parametrize("make", [lambda: unregistered("dqn", **OFF), wrapped])
def test_off_policy_training_has_its_replay_buffer_where_there_is_nothing_to_act_in(
    make: Callable[[], BaseAlgorithm],
) -> None:
    callback = ConversionCallback(sim_steps=8)
    rows = learn(make(), callback, 200)
    assert callback.last is not None
    assert callback.last.agent.provenance["observations"] == "from the replay buffer"
    assert len(rows.of("spiking/agreement")) == 1
    assert not rows.of("spiking/return")


class Counting(ReferenceBackend):
    """The reference, which counts what it is told to compile."""

    compiled = 0

    def compile(self, *arguments: Any, **options: Any) -> Any:
        type(self).compiled += 1
        return super().compile(*arguments, **options)


def test_episodes_are_played_on_the_back_end_that_was_chosen() -> None:
    callback = ConversionCallback(backend=Counting(), **QUICK)
    learn(model("ppo"), callback, 64)
    assert callback.failures == []
    assert Counting.compiled == 1


def makes() -> gym.Env[Any, Any]:
    return Unregistered()


@pytest.mark.parametrize(
    "env", [makes, Unregistered(), DummyVecEnv([Unregistered] * 2)], ids=["function", "env", "vec"]
)
def test_the_place_to_act_in_can_be_given(env: Any) -> None:
    callback = ConversionCallback(env=env, n_calibration=100, sim_steps=8, episodes=2)
    rows = learn(model("ppo"), callback, 64)
    assert callback.failures == []
    assert rows.of("spiking/return") == [(64, 15.0)]


@pytest.mark.parametrize("where", ["alone", "copied", "stepped"])
def test_normalised_training_gives_an_agent_for_raw_observations(where: str) -> None:
    def make() -> gym.Env[Any, Any]:
        return Unregistered() if where == "stepped" else gym.make("CartPole-v1")

    env = VecNormalize(DummyVecEnv([make]))
    source = model("ppo")
    source.set_env(env)
    callback = ConversionCallback(n_calibration=200, sim_steps=8, episodes=2)
    outer: BaseCallback = callback
    if where != "alone":
        # without a Monitor, so that the rewards it would be normalising are those it counts
        evaluation = VecNormalize(DummyVecEnv([make]), training=False)
        outer = EvalCallback(
            evaluation, callback_after_eval=callback, eval_freq=64, verbose=0, warn=False
        )
    learn(source, outer, 64)
    assert callback.failures == []
    assert callback.last is not None
    (part,) = callback.last.agent.preprocessing.inputs
    assert np.array_equal(part.steps[0].mean, env.obs_rms.mean)  # type: ignore[union-attr]
    assert part.steps[0].mean.any()  # type: ignore[union-attr]
    if where == "stepped":
        assert callback.last.figures["return"] == 15.0


# --- failures -------------------------------------------------------------------------------------


def test_a_conversion_that_fails_is_a_warning_and_training_goes_on(tmp_path: Path) -> None:
    callback = ConversionCallback(every=64, path=tmp_path)  # nothing to calibrate on
    source = unregistered("ppo")
    with pytest.warns(ConversionWarning, match="time steps failed: there is nothing to calibrate"):
        rows = learn(source, callback, 128)
    assert source.num_timesteps == 128
    assert [step for step, _ in callback.failures] == [64, 128, 128]
    assert "pass observations=" in callback.failures[0][1]
    assert rows.of("spiking/failures") == [(64, 1), (128, 2), (128, 3)]
    assert not list(tmp_path.iterdir())


def test_not_even_where_warnings_are_errors_does_it_end_a_training() -> None:
    callback = ConversionCallback()
    source = unregistered("ppo")
    learn(source, callback, 64)  # this test suite makes warnings errors
    assert len(callback.failures) == 1


def test_a_folder_that_cannot_be_written_is_such_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    callback = ConversionCallback(path=tmp_path / "file", **QUICK)
    with pytest.warns(ConversionWarning, match="File exists"):
        learn(model("ppo"), callback, 64)


def test_interrupting_ends_a_conversion_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: ConversionCallback) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ConversionCallback, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(model("ppo"), ConversionCallback(**QUICK), 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sim_step": 8}, "there is no rule 'sim_step'"),
        ({"sim_steps": 0}, "sim_steps must be a whole number >= 1"),
        ({"readout": "guessed"}, "readout is 'guessed'"),
        ({"seed": None}, "seed must be a number"),
        ({"when": "later"}, "when is 'later', wanted one of end, eval"),
        ({"every": 0}, "every must be a whole number >= 1"),
        ({"when": "eval", "every": 5}, "every= is for a callback"),
        ({"episodes": 0}, "episodes must be a whole number >= 1"),
        ({"backend": "abacus"}, "there is no back end 'abacus'"),
        ({"env": 5}, "env is 5, wanted an id"),
        ({"env": "CartPool-v1"}, "no environment CartPool-v1"),
    ],
)
def test_arguments_are_refused_before_training(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(spikerl.SpikerlError, match=message):
        ConversionCallback(**arguments)


def held(callback: ConversionCallback) -> BaseCallback:
    return EveryNTimesteps(10, callback)


def itself(callback: ConversionCallback) -> BaseCallback:
    return callback


@pytest.mark.parametrize(
    ("arguments", "outer", "message"),
    [
        ({"when": "eval"}, itself, "no callback holds this one"),
        ({"when": "end"}, held, "EveryNTimesteps does not tell the callback it holds"),
        ({"every": 5}, held, "EveryNTimesteps does not tell the callback it holds"),
    ],
)
def test_a_callback_in_the_wrong_place_is_refused_before_training(
    arguments: dict[str, Any], outer: Callable[[ConversionCallback], BaseCallback], message: str
) -> None:
    source = model("ppo")
    with pytest.raises(ConversionError, match=message):
        source.learn(64, callback=outer(ConversionCallback(**arguments)))
    assert source.num_timesteps == 0
