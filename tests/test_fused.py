"""Loops for CUDA: as Triton interprets and compiles them, and as they run where there is a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spikerl.nn import SURROGATES, firing

CASES = Path(__file__).with_name("fused_cases.py")
HERE = [
    "interpreted",
    pytest.param(
        "on a GPU",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    ),
]


@pytest.mark.parametrize("where", HERE)
def test_their_cases(where: str) -> None:
    pytest.importorskip("triton")
    here = {**os.environ, "TRITON_INTERPRET": str(int(where == "interpreted"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, env=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^8\d passed", done.stdout, re.MULTILINE), done.stdout


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module as it is on a machine with a GPU."""
    pytest.importorskip("triton")
    fused = import_module("spikerl.nn.fused")
    monkeypatch.setattr(fused, "ready", lambda: None)
    firing._loops.cache_clear()
    yield fused
    firing._loops.cache_clear()


def tensor_on(device: str, dtype: torch.dtype) -> Any:
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


def test_they_are_for_single_and_double_precision_on_cuda(loops: Any) -> None:
    for dtype in (torch.float32, torch.float64):
        assert firing.runs_fused(tensor_on("cuda", dtype)) is loops
        assert firing.runs_fused(tensor_on("cuda:1", dtype)) is loops
        assert firing.runs_fused(tensor_on("cpu", dtype)) is None
    assert firing.runs_fused(tensor_on("cuda", torch.float16)) is None


def test_where_triton_does_not_work_it_is_said_why(
    loops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ready() -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(loops, "ready", ready)
    with pytest.warns(UserWarning, match="step by step on CUDA.*RuntimeError: Failed to find C"):
        assert firing.runs_fused(tensor_on("cuda", torch.float32)) is None
    assert firing.runs_fused(tensor_on("cuda", torch.float32)) is None  # and said once


def test_being_ready_is_having_a_driver() -> None:
    pytest.importorskip("triton")
    fused = import_module("spikerl.nn.fused")
    if torch.cuda.is_available():
        fused.ready()
    else:
        with pytest.raises(RuntimeError, match="driver"):
            fused.ready()


def test_kernels_are_launched_with_the_options_they_are_compiled_with_here() -> None:
    pytest.importorskip("triton")
    fused, seen = import_module("spikerl.nn.fused"), []

    class Kernel:
        def __getitem__(self, grid: tuple[int]) -> Any:
            return lambda *given, **choices: seen.append((grid, given, choices))

    fused.launch(Kernel(), torch.zeros(43, 3), "x", zero=True)
    assert seen == [((2,), ("x",), {"zero": True, "block": fused.BLOCK, **fused.OPTIONS})]
    assert fused.OPTIONS == {"enable_fp_fusion": False}


NUMBERS = {"steps": "i32", "counted": "i32", "neurons": "i32", "width": "i32"}
KERNELS = [
    *(("fused", name) for name in ("forward_kernel", "backward_kernel", "filter_kernel")),
    *(("fused_adaptation", name) for name in ("forward_kernel", "backward_kernel")),
]


def compiled(module: str, name: str, kind: str, capability: int, **choices: Any) -> Any:
    """A kernel for GPUs of a capability, with the options it is launched with."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    kernel = getattr(import_module(f"spikerl.nn.{module}"), name)
    usual = {"zero": False, "constant": False, "wanted": True, "detach": False, "learned": True}
    usual |= {"code": 1, "block": 128, "decay": 0.7, "beta": 0.3, "rho": 0.9}
    if name != "filter_kernel":
        del usual["decay"]
    values = {x: value for x, value in (usual | choices).items() if x in kernel.arg_names}
    types = {x: NUMBERS.get(x, f"*{kind}") for x in kernel.arg_names}
    types |= dict.fromkeys(values, "constexpr")
    source = triton.compiler.ASTSource(kernel, types, values)
    options = import_module("spikerl.nn.fused").OPTIONS
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize("kind", ["fp32", "fp64"])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(("module", "name"), KERNELS)
def test_they_compile_for_gpus_and_round_after_every_product(
    module: str, name: str, zero: bool, constant: bool, kind: str
) -> None:
    for capability in (75, 80, 90):
        made = compiled(module, name, kind, capability, zero=zero, constant=constant)
        assert made.asm["cubin"]
        if name != "backward_kernel":  # which divides, and a quotient is made of such products
            assert "fma" not in made.asm["ptx"]


@pytest.mark.parametrize("kind", ["fp32", "fp64"])
@pytest.mark.parametrize("code", range(len(SURROGATES)), ids=SURROGATES)
def test_every_surrogate_compiles(code: int, kind: str) -> None:
    for module in ("fused", "fused_adaptation"):
        rules = {"code": code, "detach": True, "learned": False, "wanted": False}
        assert compiled(module, "backward_kernel", kind, 90, **rules).asm["cubin"]
