"""ConversionCallback by its name in rl-zoo's YAML, alone and in a run of rl_zoo3 itself."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import yaml
from policies import model
from processes import run_python

import spikerl

SETTINGS = """
CartPole-v1:
  n_timesteps: 256
  policy: MlpPolicy
  normalize: true
  n_steps: 64
  batch_size: 64
  policy_kwargs: "dict(activation_fn=nn.ReLU, net_arch=[16])"
  callback:
    - spikerl.callbacks.ConversionCallback:
        when: "end"
        sim_steps: 8
        n_calibration: 200
        episodes: 2
        backend: "cpu"
        backend_options: {isolation: "process"}
        path: "%s"
"""


def test_plain_words_and_numbers_of_a_yaml_file_are_all_it_needs(tmp_path: Path) -> None:
    settings = yaml.safe_load(SETTINGS % tmp_path)["CartPole-v1"]
    ((name, arguments),) = settings["callback"][0].items()
    module, _, attribute = name.rpartition(".")
    callback = getattr(import_module(module), attribute)(**arguments)  # as rl-zoo does
    model("ppo").learn(64, callback=callback)
    assert callback.failures == []
    assert {file.name for file in tmp_path.iterdir()} == {"best.spk", "last.spk"}


def test_a_run_of_rl_zoo_leaves_a_spiking_agent(tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3")
    (tmp_path / "settings.yml").write_text(SETTINGS % (tmp_path / "agents"))
    line = "--algo ppo --env CartPole-v1 --conf-file settings.yml --log-folder logs --eval-freq 128"
    words = ("rl_zoo3.train", *line.split(), "--device", "cpu")
    done = run_python("-m", *words, cwd=tmp_path, env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    assert "spiking/" in done.stdout
    assert done.stdout.count("synaptic_operations") == 1  # rl-zoo ends its first callback twice
    assert "failed" not in done.stderr
    agent = spikerl.SpikingAgent.load(tmp_path / "agents" / "last.spk")
    assert agent.provenance["source"]["timesteps"] == 256
    assert agent.preprocessing.inputs[0].steps  # the statistics of VecNormalize
    # what it was made of is in the run's own folder
    again = spikerl.convert(tmp_path / "logs" / "ppo" / "CartPole-v1_1", sim_steps=8)
    assert again.preprocessing.inputs[0].steps[0].mean == pytest.approx(
        agent.preprocessing.inputs[0].steps[0].mean
    )
