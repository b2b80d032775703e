"""Agents in zoo/agents: rl-zoo's enjoy plays them, and the ones that spike are deployed exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from processes import run_python

import spikerl
from spikerl import HardwarePolicy
from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.conversion.environments import maker, todays_id

ZOO = Path(__file__).parents[1] / "zoo"
AGENTS = sorted(path for path in (ZOO / "agents").glob("*/*_1") if path.is_dir())
SPIKING = [
    path for path in AGENTS if "policy: spikerl." in next(path.rglob("config.yml")).read_text()
]


def name(path: Path) -> str:
    return "/".join(path.parts[-2:])


@pytest.mark.parametrize("path", AGENTS, ids=name)
def test_an_agent_says_how_it_was_made(path: Path) -> None:
    env = path.name.rsplit("_", 1)[0]
    said = yaml.safe_load((path / env / "args.yml").read_text("utf-8"))
    assert said["algo"] == path.parent.name
    assert said["env"] == env
    assert isinstance(said["seed"], int)
    assert said["env_kwargs"] is None  # rl-zoo's enjoy looks it up
    assert "policy" in yaml.safe_load((path / env / "config.yml").read_text("utf-8"))
    if path in SPIKING:
        assert {"spikerl", "stable_baselines3", "rl_zoo3", "torch"} <= set(said["versions"])


@pytest.mark.parametrize("path", SPIKING, ids=name)
def test_a_trained_spiking_agent_is_deployed_as_it_is(path: Path) -> None:
    if "LunarLander" in path.name:
        pytest.importorskip("Box2D", reason="LunarLander needs Box2D", exc_type=ImportError)
    checkpoint = load_checkpoint(path)
    env_id = todays_id(str(checkpoint.env_id))
    env = maker(env_id, checkpoint.env_kwargs, checkpoint.wrappers)
    agent = spikerl.convert(path, env=env, n_calibration=500)
    assert agent.report is not None
    world = env()
    observation, _ = world.reset(seed=0)
    with HardwarePolicy(agent) as policy, HardwarePolicy(agent, "reference") as reference:
        for _ in range(100):
            action, _ = policy.predict(observation)
            np.testing.assert_array_equal(action, reference.predict(observation)[0])
            observation, _, terminated, truncated, _ = world.step(action)
            if terminated or truncated:
                observation, _ = world.reset()
    if agent.report.agreement is not None:
        assert agent.report.agreement.value == 1.0
    else:
        assert agent.report.faithfulness.value < 1e-3


@pytest.mark.parametrize("path", [AGENTS[0], *SPIKING[:1]], ids=name)
def test_rl_zoo_plays_an_agent(path: Path) -> None:
    pytest.importorskip("rl_zoo3", reason="rl_zoo3 is not installed")
    env = path.name.rsplit("_", 1)[0]
    command = ["-m", "rl_zoo3.enjoy", "--algo", path.parent.name, "--env", env]
    command += ["-f", str(ZOO / "agents"), "-n", "600", "--no-render", "--device", "cpu"]
    done = run_python(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Mean reward" in done.stdout
