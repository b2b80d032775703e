"""Every file in examples/ runs to its end, in a fresh process and an empty directory."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
NEEDS = {
    "digits_in_genn": ("sklearn",),
    "dynapse_cartpole": ("rockpool", "jax"),
    "frozen_noise": ("rockpool", "jax"),
    "keras_to_loihi": ("sklearn", "nengo_loihi", "matplotlib"),
}
SHORTER = {
    "dynapse_cartpole": ["--updates", "10", "--episodes", "1"],
    "frozen_noise": ["--updates", "20"],
    "keras_to_loihi": ["--quick"],
}


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_example_runs_and_prints(path, tmp_path):
    for module in NEEDS.get(path.stem, ()):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    done = subprocess.run(
        [sys.executable, path, *SHORTER.get(path.stem, [])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
