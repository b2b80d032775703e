"""What every command shares: the two consoles, common options, JSON and progress."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Steps = Annotated[int, typer.Option("--sim-steps", "-T", help="Steps per decision.")]
EnvId = Annotated[
    str | None, typer.Option("--env", help="Environment id, if not the checkpoint's own.")
]
Source = Annotated[Path, typer.Argument(help="An SB3 .zip or an rl-zoo directory (ALGO/ENV_1).")]
VecNormalizeFile = Annotated[
    Path | None, typer.Option("--vecnormalize", help="Saved VecNormalize, if not beside the zip.")
]


def note(message: Any, kind: str = "note") -> None:
    err.print(f"{kind}: {message}", markup=False, highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(entry) for entry in value]
        if isinstance(value, (set, frozenset)):
            return sorted(value)
        if hasattr(value, "item"):
            value = value.item()
        if isinstance(value, float) and not isfinite(value):
            return None  # JSON has no word for it
        return value if isinstance(value, (str, int, float, type(None))) else str(value)

    print(json.dumps(plain(data), allow_nan=False))


@contextmanager
def progress_bar(what: str, total: int, silent: bool) -> Iterator[Callable[[int], None] | None]:
    if silent:
        yield None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
