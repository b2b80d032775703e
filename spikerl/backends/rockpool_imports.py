"""Importing Rockpool, and whether the vendor's `samna` is here; nothing is imported before a call.

Rockpool imports samna where it finds it. PyPI has a placeholder of that name which runs pip when it
is imported, so that is looked at through the metadata of installed packages alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution

from spikerl.errors import BackendError

LIBRARIES = (".so", ".pyd", ".dylib")


def samna_version() -> str | None:
    """The version of the installed samna, None without one; it is not imported."""
    try:
        return distribution("samna").version
    except PackageNotFoundError:
        return None


def unmet() -> tuple[str, str] | None:
    """Why Rockpool must not be imported here and what to do; None if it may be."""
    if samna_version() is None:
        return None
    files = distribution("samna").files or ()
    if any(str(file).endswith(LIBRARIES) for file in files):
        return None
    return (
        "the samna here has no compiled library: it is PyPI's placeholder, which runs pip when "
        "Rockpool imports it",
        "remove it: pip uninstall samna",
    )


@contextmanager
def importing(extra: str) -> Iterator[None]:
    """A context to import Rockpool in, without what it does to the root logger.

    Raises BackendError where something is missing, with the extra of spikerl that brings it, and
    where the import would run an installer.
    """
    wrong = unmet()
    if wrong is not None:
        raise BackendError("; ".join(wrong))
    root = logging.getLogger()
    handlers, filters = list(root.handlers), list(root.filters)
    root.handlers = [logging.NullHandler()]  # else its remark on samna sets up logging for all
    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendError(f"needs {error.name}: pip install 'spikerl[{extra}]'") from error
    finally:
        root.handlers, root.filters = handlers, filters
