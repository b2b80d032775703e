"""The entry point of the command: says what to install where the command line's libraries lack."""

import sys


def main() -> None:
    """Run the command line, or say in one line what it needs."""
    try:
        from spikerl.cli import main as run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(
            f"error: the spikerl command needs {error.name}; "
            "install it: pip install 'spikerl[cli]'",
            file=sys.stderr,
        )
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
