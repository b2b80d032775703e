"""Every file in examples/ runs to its end, in a fresh process and an empty directory."""

import subprocess
import sys
from pathlib import Path

import pytest

NEEDS = {"frozen_noise": ("rockpool", "jax"), "dynapse_cartpole": ("rockpool", "jax")}
SHORTER = {
    "frozen_noise": ["--updates", "20"],
    "dynapse_cartpole": ["--updates", "10", "--episodes", "1"],
}
EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_example_runs_and_prints(path, tmp_path):
    for module in NEEDS.get(path.stem, ()):
        pytest.importorskip(module)
    command = [sys.executable, path, *SHORTER.get(path.stem, [])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
