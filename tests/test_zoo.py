"""Settings in zoo/: every entry makes a model that trains, where its environment is installed."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from processes import run_python
from stable_baselines3.common.noise import NormalActionNoise
from zoo_entries import ENTRIES, FILES, ZOO, register_environments

import spikerl
from spikerl import HardwarePolicy
from spikerl.conversion.checkpoints import ALGORITHMS
from spikerl.conversion.environments import maker
from spikerl.nn.memory import SpikingMemory
from spikerl.nn.stack import SpikingStack

NEEDS = {"v5": "mujoco", "LunarLander": "Box2D", "BipedalWalker": "Box2D"}
HERE = {"n_timesteps", "policy", "policy_kwargs", "callback", "noise_type", "noise_std"}
ELSEWHERE = {"n_envs", "normalize", "env_wrapper"}  # rl-zoo's own business
ROLLOUT = {"n_steps": 16, "batch_size": 16, "n_epochs": 1}
ROLLOUTS = {
    **{"a2c": {"n_steps": 16}, "trpo": {"n_steps": 16, "batch_size": 16}},
    **{"ppo": ROLLOUT, "ppo_lstm": ROLLOUT},
}
REPLAY = {
    **{"learning_starts": 8, "buffer_size": 200, "batch_size": 16},
    **{"train_freq": 4, "gradient_steps": 2},
}
CONTINUOUS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5")


@pytest.mark.parametrize("algo", ["td3", "sac", "tqc", "proxy_td3"])
def test_the_continuous_tasks_are_there_for_every_actor(algo: str) -> None:
    assert {*CONTINUOUS, "LunarLanderContinuous-v3", "BipedalWalker-v3"} <= set(FILES[algo])


def test_every_algorithm_that_a_policy_serves_has_settings() -> None:
    learning = set(ALGORITHMS) - {"ars"}  # evolves parameters, without a gradient
    assert set(FILES) == learning


@pytest.mark.parametrize(("algo", "env"), ENTRIES)
def test_an_entry_trains_and_what_it_trained_is_deployed(algo: str, env: str) -> None:
    entry = FILES[algo][env]
    for part, package in NEEDS.items():
        if part in env and find_spec(package) is None:
            pytest.skip(f"{env} needs {package}")
    if env.startswith("MinAtar"):
        pytest.importorskip("minatar", reason=f"{env} needs minatar")
        import_module("spikerl.envs.minatar")
    if env not in gym.registry:
        if find_spec("rl_zoo3") is None:
            pytest.skip(f"{env} is registered by rl_zoo3")
        register_environments()
    torch.set_num_threads(1)
    module, _, name = entry["policy"].rpartition(".")
    policy = getattr(import_module(module), name)
    rules = {key: value for key, value in entry.items() if key not in HERE | ELSEWHERE}
    rules = {key: _rate(value) for key, value in rules.items()}
    rules |= ROLLOUTS.get(algo, REPLAY)
    with warnings.catch_warnings():
        # Box2D's bindings, at their first import
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", ".*precision lowered by casting")  # RescaleObservation
        world = maker(env, {}, tuple(entry.get("env_wrapper", ())))()
    if entry.get("noise_type") == "normal":
        n = world.action_space.shape[0]  # type: ignore[index]
        rules["action_noise"] = NormalActionNoise(np.zeros(n), np.full(n, entry["noise_std"]))
    keywords = eval(entry["policy_kwargs"], {"dict": dict})
    kind = ALGORITHMS[algo]
    made = kind(policy, world, seed=0, device="cpu", policy_kwargs=keywords, **rules)  # type: ignore[call-arg]
    made.learn(32, callback=[_callback(one) for one in entry.get("callback", [])])
    assert any(isinstance(part, SpikingStack | SpikingMemory) for part in made.policy.modules())
    rows = np.stack([world.observation_space.sample() for _ in range(20)])
    rows = np.clip(np.nan_to_num(rows), -3, 3).astype(np.float32)
    agent = spikerl.convert(made, observations=rows)
    with HardwarePolicy(agent) as deployed:
        if agent.stateful:
            theirs, found = in_turn(made, rows), in_turn(deployed, rows)
        else:
            theirs, found = made.predict(rows, deterministic=True)[0], deployed.predict(rows)[0]
        np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-5)


def in_turn(policy: Any, rows: np.ndarray) -> np.ndarray:
    """The actions of one that remembers, for rows that follow each other."""
    state, actions = None, []
    for k, row in enumerate(rows):
        action, state = policy.predict(row, state, np.array([k == 0]), True)
        actions.append(action)
    return np.stack(actions)


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_atari_s_entry_trains_on_frames(algo: str) -> None:
    pytest.importorskip("ale_py", reason="Atari needs ale_py")
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    entry = FILES[algo]["atari"]
    torch.set_num_threads(1)
    env = VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", 1, seed=0), entry["frame_stack"])
    module, _, name = entry["policy"].rpartition(".")
    rules = {key: _rate(value) for key, value in entry.items() if key not in HERE | ELSEWHERE}
    rules.pop("frame_stack")
    rules |= {**ROLLOUT, "n_steps": 8, "batch_size": 4} if algo == "ppo" else REPLAY
    rules |= {} if algo == "ppo" else {"batch_size": 2, "buffer_size": 50}
    keywords = eval(entry["policy_kwargs"], {"dict": dict})
    policy = getattr(import_module(module), name)
    made = ALGORITHMS[algo](policy, env, device="cpu", seed=0, policy_kwargs=keywords, **rules)  # type: ignore[call-arg]
    made.learn(12)
    rows = np.random.default_rng(0).integers(0, 256, (12, 4, 84, 84), dtype=np.uint8)
    agent = spikerl.convert(made, observations=rows)
    with HardwarePolicy(agent) as deployed:
        theirs = made.predict(rows, deterministic=True)[0]
        assert np.array_equal(deployed.predict(rows)[0], theirs)


def _rate(value: Any) -> Any:
    """A schedule of rl-zoo as the number it starts from."""
    return float(value[4:]) if isinstance(value, str) and value.startswith("lin_") else value


def _callback(entry: Any) -> Any:
    path, keywords = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)(**keywords)


def test_rl_zoo_trains_with_a_proxy_target(tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3", reason="rl_zoo3 is not installed")
    settings = (ZOO / "proxy_td3.yml").read_text("utf-8").split("HalfCheetah-v5")[0]
    settings = settings.replace("Hopper-v5", "Pendulum-v1").replace("25000", "60")
    (tmp_path / "conf.yml").write_text(settings.replace("!!float 1e6", "90"))
    command = [str(ZOO / "train.py"), "--algo", "proxy_td3"]
    command += ["--env", "Pendulum-v1", "--conf-file", str(tmp_path / "conf.yml")]
    command += ["--log-folder", str(tmp_path / "logs"), "--eval-freq", "-1", "--device", "cpu"]
    done = run_python(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    agent = spikerl.convert(tmp_path / "logs" / "proxy_td3" / "Pendulum-v1_1", n_calibration=100)
    assert agent.provenance["source"]["algorithm"] == "proxy_td3"
