"""Advice of environment checkers that does not fit what the tests make: none of it is an error.

They would rather see environments without wrappers, with rows for observations, bounded, and with
actions of one size.
"""

from __future__ import annotations

import pytest

ADVICE = (
    "different from the unwrapped version",
    "unconventional shape",
    "symmetric and normalized",
    "value is (-)?infinity",
)


def ignored(*more: str) -> list[pytest.MarkDecorator]:
    """Marks for a module; more: advice that is meant there alone."""
    return [pytest.mark.filterwarnings(f"ignore:.*{advice}") for advice in (*ADVICE, *more)]
