"""Checkpoints: zips and rl-zoo directories, today's and those of the old gym."""

from __future__ import annotations

import base64
import json
import pickle
import random
import sys
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from policies import model
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import spikerl
from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.conversion.environments import todays_id
from spikerl.conversion.vecnormalize import statistics
from spikerl.errors import ConversionError, ConversionWarning

FEW = 400
ORDERED = "!!python/object/apply:collections.OrderedDict\n- - - {key}\n    - {value}\n"


def run_directory(folder: Path, algo: str, env: str, kind: str) -> Path:
    """ALGO/ENV_1 as rl-zoo writes it."""
    run = folder / algo / f"{env}_1"
    (run / env).mkdir(parents=True)
    model(kind).save(run / f"{env}.zip")
    (run / env / "args.yml").write_text(ORDERED.format(key="env", value=env))
    (run / env / "config.yml").write_text(ORDERED.format(key="normalize", value="false"))
    return run


def of_old_gym(file: Path) -> None:
    """Rewrite a zip's data as if it had been saved under gym, by another Python."""
    broken = base64.b64encode(b"cnosuchmodule\nNoSuchClass\n.").decode()
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    low = "[-4.8000002e+00 -3.4028235e+38 -4.1887903e-01 -3.4028235e+38]"
    high = low.replace("[-", "[ ").replace(" -", "  ")
    data["observation_space"] = {
        ":type:": "<class 'gym.spaces.box.Box'>",
        ":serialized:": broken,
        "dtype": "float32",
        "shape": [4],
        "low": low,
        "high": high,
    }
    data["action_space"] = {
        ":type:": "<class 'gym.spaces.discrete.Discrete'>",
        ":serialized:": broken,
        "n": "2",
    }
    for name in ("learning_rate", "lr_schedule", "exploration_schedule", "_last_obs"):
        data[name] = {":type:": "<class 'function'>", ":serialized:": broken}
    members["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_a_zip_a_directory_and_the_model_give_the_same_network(tmp_path: Path) -> None:
    run = run_directory(tmp_path, "dqn", "CartPole-v1", "dqn")
    observations = np.random.default_rng(0).uniform(-1, 1, (FEW, 4)).astype(np.float32)
    sources = (model("dqn"), run, run / "CartPole-v1.zip", run / "CartPole-v1")
    prints = {
        spikerl.convert(source, observations=observations).network.fingerprint()
        for source in (str(s) if isinstance(s, Path) else s for s in sources[:3])
    }
    assert len(prints) == 1


def test_a_directory_knows_its_environment(tmp_path: Path) -> None:
    run = run_directory(tmp_path, "dqn", "CartPole-v1", "dqn")
    agent = spikerl.convert(run, n_calibration=FEW)
    assert agent.provenance["environment"] == "CartPole-v1"
    assert agent.provenance["observations"] == "collected on-policy"
    assert len(agent.provenance["source"]["sha256"]) == 64


def test_a_checkpoint_of_the_old_gym_acts_as_it_did(tmp_path: Path) -> None:
    run = run_directory(tmp_path, "dqn", "CartPole-v1", "dqn")
    before = load_checkpoint(run).model
    of_old_gym(run / "CartPole-v1.zip")
    checkpoint = load_checkpoint(run)
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 4)).astype(np.float32)
    wanted, _ = before.predict(observations, deterministic=True)
    found, _ = checkpoint.model.predict(observations, deterministic=True)
    assert np.array_equal(found, wanted)
    low = checkpoint.model.observation_space.low  # type: ignore[attr-defined]
    assert np.allclose(low[[0, 2]], [-4.8, -0.41887903])
    assert spikerl.convert(run, n_calibration=FEW).report is not None


def test_a_checkpoint_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    run = run_directory(tmp_path, "ppo", "CartPole-v1", "dqn")
    with pytest.raises(ConversionError, match="is a checkpoint of DQN, not of PPO"):
        spikerl.convert(run)
    with pytest.raises(ConversionError, match="is a checkpoint of DQN, not of SAC"):
        load_checkpoint(run / "CartPole-v1.zip", algo="sac")
    with pytest.raises(ConversionError, match="wanted one of a2c, ars"):
        load_checkpoint(run, algo="reinforce")


@pytest.mark.parametrize("kind", ["ppo", "a2c", "trpo", "qrdqn", "sac", "tqc", "td3", "ars box"])
def test_the_algorithm_is_read_from_the_file(tmp_path: Path, kind: str) -> None:
    model(kind).save(tmp_path / "agent.zip")
    assert load_checkpoint(tmp_path / "agent.zip").details["algorithm"] == kind.split()[0]


def test_loading_leaves_the_global_generators_alone(tmp_path: Path) -> None:
    model("dqn").save(tmp_path / "agent.zip")
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state(), random.getstate()
    load_checkpoint(tmp_path / "agent.zip")
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert random.getstate() == before[2]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("data", "{}")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("text.zip", "is no checkpoint of SB3"),
        ("other.zip", "does not name a policy class"),
        ("empty", r"holds 0 \.zip files"),
        ("missing", "there is no file or directory"),
    ):
        with pytest.raises(ConversionError, match=message):
            spikerl.convert(tmp_path / name)


def test_missing_statistics_are_noticed(tmp_path: Path) -> None:
    run = run_directory(tmp_path, "dqn", "CartPole-v1", "dqn")
    (run / "CartPole-v1" / "config.yml").write_text("normalize: true\n")
    with pytest.raises(ConversionError, match=r"no vecnormalize\.pkl beside it"):
        spikerl.convert(run)


# --- VecNormalize -------------------------------------------------------------------------------


def normalized() -> VecNormalize:
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=2, seed=0), clip_obs=5.0)
    env.reset()
    for _ in range(20):
        env.step(np.array([0, 1]))
    return env


def test_statistics_of_a_file_are_those_of_the_object(tmp_path: Path) -> None:
    env = normalized()
    env.save(str(tmp_path / "vecnormalize.pkl"))
    from_file = statistics(tmp_path / "vecnormalize.pkl")[None]
    from_object = statistics(env)[None]
    assert np.array_equal(from_file.mean, from_object.mean)
    assert np.array_equal(from_file.var, from_object.var)
    assert (from_file.clip, from_file.epsilon) == (5.0, env.epsilon)
    env.norm_obs = False
    assert statistics(env) == {}


def test_statistics_that_name_a_package_long_gone_are_read(tmp_path: Path) -> None:
    env = normalized()
    old = types.ModuleType("gym_of_old")

    class Box:
        pass

    Box.__module__, Box.__qualname__, old.Box = "gym_of_old", "Box", Box  # type: ignore[attr-defined]
    sys.modules["gym_of_old"] = old
    try:
        env.observation_space = Box()  # type: ignore[assignment]
        env.save(str(tmp_path / "old.pkl"))
    finally:
        del sys.modules["gym_of_old"]
    assert statistics(tmp_path / "old.pkl")[None].mean.shape == (4,)


class Payload:
    """Pickled, it calls open() on loading."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return open, (str(self.target), "w")


def test_reading_statistics_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"obs_rms": Payload(tmp_path / "touched")}))
    with pytest.raises(ConversionError, match="no observation statistics"):
        statistics(tmp_path / "evil.pkl")
    assert not (tmp_path / "touched").exists()


def test_statistics_of_another_environment_are_refused(tmp_path: Path) -> None:
    with pytest.raises(spikerl.SpikerlError, match="belong to another environment"):
        spikerl.convert(model("ppo box"), vecnormalize=normalized(), n_calibration=FEW)
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x04garbage")
    with pytest.raises(ConversionError, match="could not be read as a saved VecNormalize"):
        statistics(tmp_path / "bad.pkl")


# --- environments -------------------------------------------------------------------------------


class Gone(gym.Env[Any, Any]):
    def __init__(self) -> None:
        raise RuntimeError("this version is no longer supported")


@pytest.fixture
def versions() -> Any:
    gym.register("SpikerlTest-v1", entry_point=Gone)
    gym.register(
        "SpikerlTest-v3", entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    )
    yield
    for name in ("SpikerlTest-v1", "SpikerlTest-v3"):
        del gym.registry[name]


def test_an_old_id_is_todays_newest_version_with_a_note(versions: Any) -> None:
    for old in ("SpikerlTest-v0", "SpikerlTest-v1"):
        with pytest.warns(ConversionWarning, match=f"{old} is SpikerlTest-v3 today"):
            assert todays_id(old) == "SpikerlTest-v3"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert todays_id("CartPole-v1") == "CartPole-v1"


def test_the_note_is_in_the_report(versions: Any, tmp_path: Path) -> None:
    run = run_directory(tmp_path, "dqn", "SpikerlTest-v1", "dqn")
    with pytest.warns(ConversionWarning, match="SpikerlTest-v3 today"):
        agent = spikerl.convert(run, n_calibration=FEW)
    assert agent.report is not None
    assert any("SpikerlTest-v3" in text for text in agent.report.warnings)


def test_an_environment_nobody_has_is_refused_with_what_to_do() -> None:
    hint = r"install the package.*as in package\.module:NobodyHasThis-v7, or pass observ"
    with pytest.raises(ConversionError, match=hint):
        spikerl.convert(model("dqn"), env="NobodyHasThis-v7")
    for module in ("nobody.has.this", ".this"):
        with pytest.raises(ConversionError, match=f"{module}, which has Its-v1: "):
            todays_id(f"{module}:Its-v1")


def test_a_module_before_the_name_registers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    (tmp_path / "spikerl_registers.py").write_text(
        f"import gymnasium\ngymnasium.register('Registered-v0', entry_point={made!r})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        agent = spikerl.convert(
            model("dqn"), env="spikerl_registers:Registered-v0", n_calibration=FEW
        )
        assert agent.report is not None
    finally:
        gym.registry.pop("Registered-v0", None)


def test_wrappers_of_the_run_are_applied(tmp_path: Path) -> None:
    run = run_directory(tmp_path, "dqn", "CartPole-v1", "dqn")
    config = run / "CartPole-v1" / "config.yml"
    config.write_text("env_wrapper: utils.wrappers.TimeFeatureWrapper\n")
    with pytest.raises(
        ConversionError, match=r"have shape \(5,\), the policy was trained on \(4,\)"
    ):
        spikerl.convert(run)
    config.write_text("env_wrapper: nowhere.Wrapper\n")
    with pytest.raises(ConversionError, match=r"wrapper nowhere\.Wrapper, which is not installed"):
        spikerl.convert(run)
