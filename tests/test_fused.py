"""Loops for CUDA: as Triton interprets and compiles them, and as they run where there is a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

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


NUMBERS = {name: "i32" for name in ("steps", "counted", "neurons", "width")} | {"slope": "fp32"}
KERNELS = [
    ("fused", "forward_kernel"),
    ("fused", "backward_kernel"),
    ("fused", "filter_kernel"),
    ("fused_adaptation", "forward_kernel"),
    ("fused_adaptation", "backward_kernel"),
]


@pytest.mark.parametrize("kind", ["fp32", "fp64"])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(("module", "name"), KERNELS)
def test_they_compile_for_gpus_and_round_after_every_product(
    module: str, name: str, zero: bool, kind: str
) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    kernel = getattr(import_module(f"spikerl.nn.{module}"), name)
    choices: dict[str, Any] = {"zero": zero, "constant": False, "wanted": True, "block": 128}
    choices |= {"code": 1, "detach": False, "learned": True}
    choices |= {"decay": 0.7} if name == "filter_kernel" else {"beta": 0.3, "rho": 0.9}
    choices = {x: choices[x] for x in kernel.arg_names if x in choices}
    types = {x: NUMBERS.get(x, f"*{kind}") for x in kernel.arg_names}
    types |= dict.fromkeys(choices, "constexpr")
    source = triton.compiler.ASTSource(kernel, types, choices)
    for capability in (75, 80, 90):
        target = GPUTarget("cuda", capability, 32)
        made = triton.compile(source, target=target, options={"enable_fp_fusion": False})
        assert made.asm["cubin"]
        if name != "backward_kernel":  # which divides, and a quotient is made of such products
            assert "fma" not in made.asm["ptx"]
