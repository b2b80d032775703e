"""ConversionCallback: agents made during SB3 training, which goes on as if it were not there."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from policies import model
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import spikerl
from spikerl import callbacks
from spikerl.callbacks import ConversionCallback
from spikerl.errors import ConversionError, ConversionWarning

OBSERVATIONS = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
QUICK: dict[str, Any] = {"observations": OBSERVATIONS, "sim_steps": 8, "episodes": 2}
SWING = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
OFF = {"learning_starts": 20, "buffer_size": 500}
KINDS: dict[str, tuple[str, dict[str, Any], int, dict[str, Any]]] = {
    "ppo": ("ppo", {}, 192, QUICK),
    "dqn": ("dqn", {**OFF, "train_freq": 4}, 120, QUICK),
    "sac": ("sac", {**OFF, "train_freq": 4}, 60, {**QUICK, "observations": SWING}),
}


class Rows(KVWriter):
    """Keeps every row that a logger writes."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.rows.append((step, dict(key_values)))

    def close(self) -> None:
        pass

    def of(self, key: str) -> list[tuple[int, float]]:
        return [(step, row[key]) for step, row in self.rows if key in row]


def learn(source: BaseAlgorithm, callback: BaseCallback | None, steps: int) -> Rows:
    rows = Rows()
    source.set_logger(Logger(None, [rows]))
    source.learn(steps, callback=callback)
    return rows


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


# --- where it acts --------------------------------------------------------------------------------


class Unregistered(gym.Env[Any, Any]):
    """No spec, so no copy can be made: CartPole's spaces, chance, ten steps worth 1.5 each."""

    observation_space = gym.make("CartPole-v1").observation_space
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=4).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation = self.np_random.normal(size=4).astype(np.float32)
        return observation, 1.5, self.steps == 10, False, {}


def unregistered(kind: str, **arguments: Any) -> BaseAlgorithm:
    source = model(kind, **arguments)
    source.set_env(DummyVecEnv([Unregistered]))
    return source


@pytest.mark.parametrize("n_envs", [1, 3])
def test_where_no_copy_can_be_made_the_evaluation_environment_is_used(n_envs: int) -> None:
    callback = ConversionCallback(n_calibration=100, sim_steps=8, episodes=3)
    env = DummyVecEnv([lambda: Monitor(Unregistered())] * n_envs)
    outer = EvalCallback(env, callback_after_eval=callback, eval_freq=64, verbose=0)
    rows = learn(unregistered("ppo"), outer, 64)
    assert callback.failures == []
    assert rows.of("spiking/return") == [(64, 15.0)]
    assert rows.of("spiking/synaptic_operations")[0][1] > 0


def test_off_policy_training_has_its_replay_buffer_where_there_is_nothing_to_act_in() -> None:
    callback = ConversionCallback(sim_steps=8)
    rows = learn(unregistered("dqn", **OFF), callback, 200)
    assert callback.last is not None
    assert callback.last.agent.provenance["observations"] == "from the replay buffer"
    assert len(rows.of("spiking/agreement")) == 1
    assert not rows.of("spiking/return")


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
    evaluation = VecNormalize(
        DummyVecEnv([lambda: Monitor(make())]), training=False, norm_reward=False
    )
    outer = EvalCallback(evaluation, callback_after_eval=callback, eval_freq=64, verbose=0)
    learn(source, callback if where == "alone" else outer, 64)
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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
