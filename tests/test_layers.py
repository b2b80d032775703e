"""Dependencies point one way: who may import whom, and what a small machine need not have."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from arrows import ARROWS, COMPILED

import spikerl

ROOT = Path(spikerl.__file__).parent

TORCH = ("nn", "policies", "conversion", "callbacks", "importers")
TORCH = (*TORCH, *(f"backends.{name}" for name in ("torch", "spikingjelly", "rockpool")))
SB3 = ("policies", "conversion", "callbacks")
SB3_WITHIN_FUNCTIONS = (*SB3, "evaluation", "bench", "cli", "process", "testing")
OUTSIDE = ("torch", "stable_baselines3", "sb3_contrib", "typer", "rich", "pytest", "hypothesis")
PLOTS = ("matplotlib", "jinja2")
CLUSTERS = ("joblib", "distributed", "dask", "pyarrow", "yaml")
SIMULATORS = (
    "numba",
    "nest",
    "pyNN",
    "brian2",
    "neuron",
    "spynnaker",
    "pygenn",
    "nengo",
    "nengo_loihi",
    "spikingjelly",
    "snntorch",
    "norse",
    "nir",
    "nirtorch",
    "lava",
    "rockpool",
    "samna",
    "xylosim",
    "jax",
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def belongs(module: str, groups: tuple[str, ...]) -> bool:
    return any(module == group or module.startswith(group + ".") for group in groups)


def imports(path: Path, *, within_functions: bool) -> Iterator[str]:
    """Every module a file imports; what stands under TYPE_CHECKING is not imported."""

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                if within_functions:
                    yield from walk(child)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for other in child.orelse:
                    yield from walk(ast.Module([other], []))
            elif isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path} has a relative import"
                assert child.module is not None
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    known = inner.removeprefix("spikerl.") in MODULES
                    yield inner if known else child.module
            else:
                yield from walk(child)

    yield from walk(ast.parse(path.read_text("utf-8")))


def ours(path: Path, *, within_functions: bool = False) -> set[str]:
    found = imports(path, within_functions=within_functions)
    mine = {name for name in found if name.split(".")[0] == "spikerl"}
    return {name.removeprefix("spikerl").removeprefix(".") or "__init__" for name in mine}


def roots(path: Path, *, within_functions: bool) -> set[str]:
    return {name.split(".")[0] for name in imports(path, within_functions=within_functions)}


@pytest.mark.parametrize("module", [*ARROWS, *COMPILED])
def test_a_module_of_the_core_imports_only_those_below_it(module: str) -> None:
    assert ours(MODULES[module]) <= {**ARROWS, **COMPILED}[module]


def test_the_arrows_form_no_circle() -> None:
    left = {
        name: {a for a in arrows if a != "__init__"}
        for name, arrows in {**ARROWS, **COMPILED}.items()
    }
    while left:
        free = [name for name, arrows in left.items() if not arrows & set(left)]
        assert free, f"a circle among {sorted(left)}"
        for name in free:
            del left[name]


@pytest.mark.parametrize("module", ["errors", "layers", "network", "reference", "statistics"])
def test_the_lowest_modules_need_only_numpy(module: str) -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "spikerl"}
    assert roots(MODULES[module], within_functions=True) <= allowed


@pytest.mark.parametrize("module", MODULES)
def test_torch_and_sb3_are_imported_only_where_they_belong(module: str) -> None:
    anywhere = roots(MODULES[module], within_functions=True)
    at_once = roots(MODULES[module], within_functions=False)
    sb3 = {"stable_baselines3", "sb3_contrib"}
    if not belongs(module, TORCH):
        assert "torch" not in at_once
    if not belongs(module, (*TORCH, *SB3_WITHIN_FUNCTIONS)):
        assert "torch" not in anywhere
    if not belongs(module, SB3):
        assert not at_once & sb3
    if not belongs(module, SB3_WITHIN_FUNCTIONS):
        assert not anywhere & sb3


@pytest.mark.parametrize("module", MODULES)
def test_terminals_and_test_tools_are_imported_only_where_they_belong(module: str) -> None:
    at_once = roots(MODULES[module], within_functions=False)
    if not belongs(module, ("cli", "tables")):
        assert not at_once & {"typer", "rich"}
    if not belongs(module, ("testing",)):
        assert not at_once & {"pytest", "hypothesis"}


@pytest.mark.parametrize("module", MODULES)
def test_plots_are_drawn_late_and_only_where_they_belong(module: str) -> None:
    assert not roots(MODULES[module], within_functions=False) & set(PLOTS)
    if not belongs(module, ("plots", "page")):
        assert not roots(MODULES[module], within_functions=True) & set(PLOTS)


BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
"""


def run(code: str, blocked: tuple[str, ...] = ()) -> None:
    script = BLOCK.format(blocked=blocked) + code
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_block_blocks() -> None:
    run(
        "try:\n    import torch\nexcept ImportError:\n    pass\nelse:\n    raise SystemExit(1)",
        OUTSIDE,
    )


@pytest.mark.parametrize("module", ARROWS)
def test_the_core_imports_without_torch_sb3_terminals_and_simulators(module: str) -> None:
    blocked = (*OUTSIDE, *SIMULATORS)
    run(f"import importlib; importlib.import_module('spikerl.{module}')", blocked)


@pytest.mark.parametrize("module", ["backends.cpu", "bench", "evaluation", "page"])
def test_what_decides_on_a_robot_imports_without_torch_and_sb3(module: str) -> None:
    run(f"import importlib; importlib.import_module('spikerl.{module}')", (*OUTSIDE, *PLOTS))


def test_experiments_import_without_what_their_runs_may_use() -> None:
    run("import spikerl.experiment, spikerl.testing.soak", (*OUTSIDE, *PLOTS, *CLUSTERS))


def test_importing_spikerl_loads_neither_torch_nor_sb3_nor_a_simulator() -> None:
    loaded = (*OUTSIDE, *SIMULATORS, "gymnasium")
    run(
        "import spikerl\n"
        f"assert not set(sys.modules) & {set(loaded)!r}\n"
        "spikerl.SpikingNetwork, spikerl.Dense, spikerl.SpikerlError, dir(spikerl)\n"
        f"assert not set(sys.modules) & {set(loaded)!r}\n"
        "spikerl.SpikingAgent, spikerl.HardwarePolicy, spikerl.backends.available()\n"
        f"assert not set(sys.modules) & {set(OUTSIDE + SIMULATORS)!r}\n"
    )


def test_an_agent_is_saved_loaded_and_run_without_torch_and_sb3(tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)
    run(
        f"sys.path.insert(0, {tests!r})\n"
        "from small_agents import AGENTS, observations\n"
        "from spikerl import HardwarePolicy, SpikingAgent\n"
        f"path = {str(tmp_path / 'agent.spk')!r}\n"
        "for make in AGENTS.values():\n"
        "    make().save(path)\n"
        "    with HardwarePolicy(path, 'reference', n_envs=6) as policy:\n"
        "        policy.predict(observations(policy.agent))\n",
        (*OUTSIDE, *SIMULATORS),
    )


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_longer_than_400_lines(module: str) -> None:
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= 400
