"""rl-zoo's -optimize with the search spaces of zoo/search.py, over the entries of zoo/*.yml."""

from __future__ import annotations

import copy
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml
from processes import run_python
from zoo_entries import ENTRIES, FILES, ZOO, register_environments

from spikerl.conversion.environments import maker

VARIED = {"sim_steps", "neuron", "neuron_kwargs", "net_arch", "memory_size", "n_quantiles"}
VARIED |= {"ortho_init", "log_std_init"}


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Any:
    if find_spec("rl_zoo3") is None:
        pytest.skip("rl_zoo3 is not installed")
    register_environments()
    monkeypatch.syspath_prepend(str(ZOO))
    return import_module("search")


def made(entry: dict[str, Any], env: str, kwargs: dict[str, Any]) -> None:
    """The policy of an entry, where its environment is installed."""
    if env not in gym.registry:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            world = maker(env, {}, tuple(entry.get("env_wrapper", ())))()
    except gym.error.DependencyNotInstalled:
        return
    kind = getattr(import_module("spikerl.policies"), entry["policy"].rpartition(".")[2])
    kind(world.observation_space, world.action_space, lambda _: 1e-3, **kwargs)


@pytest.mark.parametrize(("algo", "env"), ENTRIES)
def test_a_trial_keeps_what_the_entry_says_besides(algo: str, env: str, search: Any) -> None:
    import optuna

    entry = FILES[algo][env]
    assert algo in search.ALGORITHMS
    given = eval(entry["policy_kwargs"], {"dict": dict})
    before = copy.deepcopy(given)
    sample, again = search.spaces(algo, given)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(3):
        trial = study.ask()
        found = sample(trial, 1, 1, {"using_her_replay_buffer": False, "her_kwargs": {}})
        kwargs = found["policy_kwargs"]
        assert {key: kwargs[key] for key in given.keys() - VARIED} == {
            key: given[key] for key in given.keys() - VARIED
        }
        of_neurons = given.get("neuron_kwargs", {})
        varied = {"surrogate", "slope", "detach_reset"}
        kept = {name: value for name, value in of_neurons.items() if name not in varied}
        assert kept.items() <= kwargs.get("neuron_kwargs", {}).items()
        made(entry, env, kwargs)
        found_again = again(trial.params)
        assert found_again["policy_kwargs"] == kwargs
        assert found_again.get("noise_type", "") is not None
        assert ("noise_type" in found_again) == ("action_noise" in found)
        seen.add(str(kwargs))
    assert len(seen) > 1
    assert given == before


def test_a_search_is_run_and_one_of_its_trials_is_trained(tmp_path: Path, search: Any) -> None:
    def train(*options: str) -> None:
        command = [str(ZOO / "train.py"), "--algo", "proxy_td3", "--device", "cpu"]
        command += ["--env", "Pendulum-v1", "--conf-file", str(tmp_path / "conf.yml")]
        command += ["-f", str(tmp_path / "logs"), "--study-name", "s", "--eval-episodes", "1"]
        command += ["--storage", str(tmp_path / "trials.log"), "--seed", "0", *options]
        done = run_python(*command)
        assert done.returncode == 0, done.stderr[-2000:]

    entry = {
        "policy": "spikerl.policies.ProxyTD3Policy",
        "policy_kwargs": "dict(net_arch=[8], proxy_arch=[9], encoder='population', norm='care_bn')",
        "callback": [{"spikerl.policies.RecalibrateNorm": {"every": 20}}],
        "learning_starts": 10,
        "n_timesteps": 60,
    }
    (tmp_path / "conf.yml").write_text(yaml.safe_dump({"Pendulum-v1": entry}))
    train("-optimize", "--n-trials", "2", "--n-startup-trials", "2", "--n-evaluations", "1")
    train("--trial-id", "1", "--eval-freq", "-1")
    (saved,) = (tmp_path / "logs").rglob("config.yml")
    used = dict(yaml.unsafe_load(saved.read_text("utf-8")))["policy_kwargs"]
    assert used["encoder"] == "population"
    assert used["norm"] == "care_bn"
    assert used["proxy_arch"] == [9]
    assert used["net_arch"] != [8]
    assert used["neuron"] in ("IF", "LIF", "PLIF")
