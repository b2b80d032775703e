"""Compiled code: where nothing can be written, and after what it was made from has changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BY_ITSELF = """
from spikerl import Dense, SpikingNetwork, backends
with backends.get('cpu').compile(SpikingNetwork([Dense([[1.0]])])) as session:
    assert session.run([[[1.0]], [[1.0]]]).counts[0][0, 0] == 2
"""
IN_TRAINING = """
import torch
from spikerl.nn import SpikingMLP
SpikingMLP(2, [4])(torch.ones(1, 2)).sum().backward()
"""
INNER = "import numba\n\n@numba.njit\ndef inner():\n    return {number}\n"
OUTER = """
import inner
from spikerl.compiling import compiling

@compiling({sources})
def outer():
    return inner.inner()

print(outer(), sum(outer.stats.cache_hits.values()))
"""


def run(program: str, where: Path | None = None) -> str:
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, capture_output=True, text=True, cwd=where)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("program", [BY_ITSELF, IN_TRAINING])
def test_it_works_where_no_cache_can_be_written(program: str) -> None:
    run("import numba.core.caching as caching; caching.CacheImpl._locator_classes = []\n" + program)


@pytest.mark.parametrize(("sources", "second"), [("inner.__file__", "2 0"), ("", "1 1")])
def test_code_from_another_file_is_compiled_again_when_that_changes(
    sources: str, second: str, tmp_path: Path
) -> None:
    """numba alone would not see it, as the second case shows."""
    (tmp_path / "outer.py").write_text(OUTER.format(sources=sources))
    (tmp_path / "inner.py").write_text(INNER.format(number=1))
    assert run("import outer", tmp_path) == "1 0"
    assert run("import outer", tmp_path) == "1 1"
    (tmp_path / "inner.py").write_text(INNER.format(number=2))
    assert run("import outer", tmp_path) == second
