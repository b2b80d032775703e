"""Every file in examples/ runs to its end, in a fresh process and an empty directory."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import run_python

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
NEEDS = {
    "digits_in_genn": ("sklearn",),
    "dynapse_cartpole": ("rockpool", "jax"),
    "frozen_noise": ("rockpool", "jax"),
    "keras_to_loihi": ("sklearn", "nengo_loihi", "matplotlib"),
}
SHORTER = {
    "compare_settings": ["--sim-steps", "16", "--episodes", "1", "--n-calibration", "1000"],
    "dynapse_cartpole": ["--updates", "5", "--episodes", "1"],
    "frozen_noise": ["--updates", "20"],
    "image_agent": ["--timesteps", "2048", "--sim-steps", "8"],
    "keras_to_loihi": ["--quick"],
    "mountain_car": ["--timesteps", "2000", "--sim-steps", "10", "50", "--episodes", "2"],
    "policy_gradient": ["--timesteps", "4000", "--sim-steps", "10", "50", "--episodes", "2"],
    "replay_classifier": ["--size", "2000", "--updates", "1500", "--episodes", "1"],
    "load_in_pynn": ["--episodes", "1"],
    "thesis_table": ["--sim-steps", "20", "--timesteps", "6000"],
    "train_dqn_and_dsqn": ["--timesteps", "2000", "--runs", "2", "--episodes", "2"],
}
WITHOUT_TORCH = {"robot_loop"}
# what the run must have printed besides
SAID = {
    "compare_settings": r"(?s)T = 16.*default.*poisson.*neurons_per_unit=4 ",
    "image_agent": r"(?s)agreement, held out.*\n +8 +\d",
    "thesis_table": r"(?s)at T = 20.*Poisson input.*spiking classifier, trained +│ \d",
    "custom_backend": r"'fixed-point' keeps the neuron contract: \d\d checks",
    "mountain_car": r"(?s)DQN .* 50 .*classifier .* 50 +-\d+\.\d+ \(.*%",
    "policy_gradient": r"(?s)A2C .*\n +10 .*\n +50 +\d+\.\d+ \(.*%",
    "replay_classifier": r"(?s)replay.npz: 2000 .* accuracy .*classifier: mean .*conversion acc",
    "robot_loop": r"(?s)500 cycles of 20 ms, upright.*median +\d",
    "three_chips": r"cpu: return .*, agreement \d.*\n.* ACs and \S+ ms a decision",
    "train_dqn_and_dsqn": r"(?s)DSQN, run 1.* 100.00 %.*DSQN: interquartile mean.*probability",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_example_runs_and_prints(path, tmp_path):
    for module in NEEDS.get(path.stem, ()):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    words = (path, *SHORTER.get(path.stem, []))
    if path.stem in WITHOUT_TORCH:  # which is here before a program of run_python begins
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
    else:
        done = run_python(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert re.search(SAID.get(path.stem, ""), done.stdout), done.stdout


def test_what_is_said_of_examples_is_of_those_there_are():
    assert {*SHORTER, *SAID, *NEEDS, *WITHOUT_TORCH} <= {path.stem for path in EXAMPLES}
