"""zoo/results.md is what zoo/results.py makes of the rows beside it, and leaves no table empty."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ZOO = Path(__file__).parent.parent / "zoo"
PAGE = (ZOO / "results.md").read_text("utf-8")


def tables(page: str) -> dict[str, list[str]]:
    """The table below each heading that has one, line by line; the deepest heading counts."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in page.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            found.setdefault(heading, []).append(line)
    return found


TABLES = tables(PAGE)


def test_the_page_is_what_its_rows_make(tmp_path: Path) -> None:
    results: dict[str, Any] = runpy.run_path(str(ZOO / "results.py"))
    page = tmp_path / "results.md"
    results["write"].__globals__["PAGE"] = page
    results["write"]()
    assert page.read_text("utf-8") == PAGE, "run python zoo/results.py"


def test_every_section_has_a_table() -> None:
    sections = [line.lstrip("# ") for line in PAGE.splitlines() if line.startswith("## ")]
    parts = {"Conversions": {"Means", "Each"}}  # this one's tables are below its own headings
    wanted = set().union(*(parts.get(section, {section}) for section in sections))
    assert len(sections) >= 6
    assert set(TABLES) == wanted


@pytest.mark.parametrize("heading", TABLES)
def test_every_table_has_rows_as_wide_as_its_columns(heading: str) -> None:
    columns, dashes, *rows = TABLES[heading]
    assert rows, f"nothing is measured in {heading!r}"
    assert dashes.replace(" ", "").strip("|-") == ""
    for row in rows:
        assert row.count("|") == columns.count("|"), row
