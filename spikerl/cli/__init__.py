"""The command line: spikerl convert | evaluate | experiment | watch | bench | energy | ....

Imports typer and rich. Every command has --json: one JSON document on stdout, nothing else there.
Errors are one line on stderr and a non-zero exit status.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer

from spikerl import __version__
from spikerl.cli import bench, convert, evaluate, experiment, soak, watch
from spikerl.cli.console import err, note
from spikerl.errors import SpikerlError, one_line

app = typer.Typer(
    help="Spiking neural networks as reinforcement-learning agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    convert.convert,
    evaluate.evaluate,
    experiment.experiment,
    watch.watch,
    bench.bench,
    soak.soak,
):
    app.command()(command)
app.command("backends")(bench.list_backends)
app.command("energy")(bench.list_energies)


def main() -> None:
    """The entry point: notes and errors as single lines on stderr."""
    warnings.showwarning = _show_warning
    try:
        app()
    except SpikerlError as error:
        err.print(
            f"error: {one_line(error)}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(1)


def _show_warning(message: Any, category: Any, *place: Any, **more: Any) -> None:
    from spikerl.errors import ConversionWarning

    if issubclass(category, ConversionWarning):
        note(message)
    else:
        note(message, kind=category.__name__)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Spiking neural networks as reinforcement-learning agents."""
    if show:
        print(__version__)
        raise typer.Exit
