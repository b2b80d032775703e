"""Every block of the README runs: Python in a fresh process, commands through the shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line.removeprefix("$ ")
    for language, code in BLOCKS
    if language == "console"
    for line in code.splitlines()
    if line.startswith("$ ")
]
# Installing is what brought this process here, and the test command is the one that is running.
ELSEWHERE = ("pip install", "python -m pytest")


def test_the_readme_has_examples_and_commands():
    assert len(PYTHON) >= 2
    assert any(line.startswith("spikerl ") for line in COMMANDS)


def run(arguments, where):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTEST_ADDOPTS": "-p no:nengo",  # where nengo is installed, its plug-in breaks pytest 9
    }
    return subprocess.run(
        arguments, cwd=where, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture
def checkout(tmp_path):
    """A directory that looks like a checkout to the examples, but is thrown away."""
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    return tmp_path


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_every_python_block_runs(code, checkout):
    if "parametrize_with_checks" in code:
        (checkout / "test_it.py").write_text(code)
        done = run([sys.executable, "-m", "pytest", "-q", "test_it.py"], checkout)
        assert re.search(r"^\d+ passed", done.stdout, re.M), done.stdout + done.stderr
    else:
        done = run([sys.executable, "-c", code], checkout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_runs_in_the_order_of_the_readme(checkout):
    for command in COMMANDS:
        if command.startswith(ELSEWHERE):
            continue
        done = run(["bash", "-c", command], checkout)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout.strip(), command


def figures(text):
    """The returns, the agreement and the rates that `spikerl evaluate` prints."""
    returns = re.findall(r"│ (?:original|spiking).*?│ *([\d.]+) ±", text)
    (agreement,) = re.findall(r"states visited: ([\d.]+)%", text)
    (rates,) = re.findall(r"by layer: (.*)", text)
    return [float(x) for x in (*returns, agreement, *rates.split(", "))]


def test_the_table_of_the_readme_is_what_the_command_prints(checkout):
    (shown,) = [code for language, code in BLOCKS if language == "text" and "episodes" in code]
    (command,) = [c for c in COMMANDS if re.fullmatch(r"spikerl evaluate \S+", c)]
    found, wanted = figures(run(["bash", "-c", command], checkout).stdout), figures(shown)
    assert len(found) == len(wanted)
    # Matrix products of another machine round otherwise, and a closed loop amplifies it.
    assert found == pytest.approx(wanted, rel=0.02)


def test_the_ci_script_runs_the_test_command_of_the_readme():
    (command,) = [line for line in COMMANDS if line.startswith("python -m pytest")]
    assert command in (ROOT / ".ci" / "run").read_text()
