"""The table of results: rows whole or not at all, no cell twice and none lost, several writers."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiments import made_up, row_of

from spikerl.errors import SpikerlError
from spikerl.experiment import COLUMNS, Table, default_path
from spikerl.experiment.columns import made_row

CELLS = [made_up(number) for number in range(6)]


@pytest.fixture(params=["csv", "parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / f"results.{request.param}"


def filled(path: Path, count: int = 3) -> list[dict[str, Any]]:
    rows = [row_of(cell) for cell in CELLS[:count]]
    with Table(path) as table:
        for row in rows:
            assert table.claim(row["cell"])
            table.add(row)
    return rows


def elsewhere(code: str, path: Path, **options: Any) -> subprocess.Popen[str]:
    """Another process that has the table open."""
    head = (
        "import sys, time\nfrom experiments import made_up, row_of\n"
        "from spikerl.experiment import Table\n"
        f"table = Table({str(path)!r})\ncells = [made_up(number) for number in range(6)]\n"
    )
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-c", head + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        **options,
    )


def test_rows_come_back_as_they_were_stored(path: Path) -> None:
    odd = {"error": 'a "quoted", text; \u00e9\u03b8', "return": 0.1 + 0.2, "returns": "[1e-308]"}
    odd |= {"p_value": float("nan"), "seed": 2**40, "length": 3}
    with Table(path) as table:
        assert table.rows == {}
        table.add(row_of(CELLS[0], **odd))
        kept = dict(table.rows)
    with Table(path) as table:
        assert table.rows == kept
    (row,) = kept.values()
    assert (row["return"], row["p_value"], row["length"]) == (0.30000000000000004, None, 3.0)
    assert row["seed"] == 2**40
    assert row["error"] == 'a "quoted", text; \u00e9\u03b8'


def test_other_programs_read_the_table(path: Path) -> None:
    rows = filled(path)
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            found = [float(row["return"]) for row in csv.DictReader(file)]
    else:
        from pyarrow import parquet

        found = parquet.read_table(path).column("return").to_pylist()
    assert found == [row["return"] for row in rows]


def test_a_cell_is_never_stored_twice(path: Path) -> None:
    (row, *_) = filled(path)
    with Table(path) as table:
        assert not table.claim(row["cell"])
        table.add({**row, "return": -1.0})
        assert table.rows[row["cell"]]["return"] == row["return"]
    with Table(path) as table:
        assert len(table.rows) == 3
        assert table.rows[row["cell"]]["return"] == row["return"]


def test_failed_rows_are_forgotten_when_asked(path: Path) -> None:
    with Table(path) as table:
        table.add(row_of(CELLS[0]))
        table.add(row_of(CELLS[1], status="failed", error="no"))
        table.add(row_of(CELLS[2], status="failed", error="no"))
        assert table.forget_failed({CELLS[0].id, CELLS[1].id}) == 1
        assert set(table.rows) == {CELLS[0].id, CELLS[2].id}
        table.add(row_of(CELLS[1]))
    with Table(path) as table:
        assert [row["status"] for row in table.rows.values()] == ["done", "failed", "done"]


# --- several processes ---------------------------------------------------------------------------


def test_a_cell_another_process_works_on_cannot_be_claimed_until_it_dies(path: Path) -> None:
    code = "assert table.claim(cells[0].id)\nprint('claimed', flush=True)\ntime.sleep(600)"
    with elsewhere(code, path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        with Table(path) as table:
            assert not table.claim(CELLS[0].id)
            assert table.claim(CELLS[1].id)
            other.kill()
            other.wait()
            assert table.claim(CELLS[0].id)


def test_processes_that_write_at_the_same_time_lose_nothing(path: Path) -> None:
    code = (
        "sys.stdin.readline()\n"
        "mine = 0\n"
        "for cell in [made_up(number) for number in range(40)]:\n"
        "    if table.claim(cell.id):\n"
        "        table.add(row_of(cell))\n"
        "        mine += 1\n"
        "print(mine)\n"
    )
    others = [elsewhere(code, path) for _ in range(3)]
    for other in others:
        assert other.stdin is not None
        other.stdin.write("go\n")
        other.stdin.flush()
    told = [other.communicate(timeout=120) for other in others]
    assert [text for _, text in told] == ["", "", ""]
    with Table(path) as table:
        assert sorted(row["seed"] for row in table.rows.values()) == list(range(40))
    assert sum(int(count) for count, _ in told) == 40


def test_rows_of_another_process_are_seen(path: Path) -> None:
    with Table(path) as table:
        code = "table.add(row_of(cells[0]))"
        with elsewhere(code, path) as other:
            assert other.wait(120) == 0
        assert table.rows == {}
        assert not table.claim(CELLS[0].id)
        assert set(table.rows) == {CELLS[0].id}


def test_a_table_is_open_once_in_a_program(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with Table(path), pytest.raises(SpikerlError, match="is open in this program already"):
        Table(tmp_path / "link" / path.name)
    Table(path).close()
    with Table(path):
        pass


# --- killed, full disks --------------------------------------------------------------------------


def test_a_row_that_was_half_written_is_not_read_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    rows = filled(path)
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for length in range(start, len(whole)):
        path.write_bytes(whole[:length])
        with Table(path) as table:
            assert set(table.rows) == {row["cell"] for row in rows[:2]}
            if length % 50 == 0 or length == len(whole) - 1:
                table.add(rows[2])
                assert path.read_bytes() == whole


def test_a_killed_parquet_writer_leaves_the_table_and_no_litter(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "results.parquet"
    filled(path)
    (tmp_path / ".results.parquet.0123456789abcdef.tmp").write_bytes(b"half")
    with Table(path) as table:
        assert len(table.rows) == 3
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


def test_a_killed_writer_leaves_whole_rows(path: Path) -> None:
    code = (
        "for number in range(10_000):\n"
        "    cell = made_up(number)\n"
        "    table.add(row_of(cell))\n"
        "    print(number, flush=True)\n"
    )
    with elsewhere(code, path) as other:
        assert other.stdout is not None
        for _ in range(5):
            other.stdout.readline()
        other.kill()
        told = [int(line) for line in other.stdout.read().split()]
    last = max([4, *told])
    with Table(path) as table:
        found = sorted(row["seed"] for row in table.rows.values())
        assert found[: last + 1] == list(range(last + 1))  # what it said was stored is stored
        assert len(found) <= last + 2
        table.add(row_of(made_up(-1)))
    with Table(path) as table:
        assert len(table.rows) == len(found) + 1


@pytest.mark.parametrize("room", [0, 100])
def test_a_full_disk_leaves_the_rows_that_were_there(path: Path, room: int) -> None:
    filled(path)
    before = path.read_bytes()
    code = (
        "import resource\n"
        "from spikerl.errors import SpikerlError\n"
        f"limit = {len(before) + room}\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try:\n"
        "    table.add(row_of(cells[5], error='x' * 100_000))\n"
        "except SpikerlError as error:\n"
        "    print(error)\n"
    )
    with elsewhere(code, path, restore_signals=False) as other:
        out, errors = other.communicate(timeout=120)
    assert "cannot be written: File too large; it still holds 3 rows" in out, errors
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*.tmp"))


# --- files of others -----------------------------------------------------------------------------


def test_a_table_of_another_format_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikerl.experiment.formats.VERSION", 2)
    monkeypatch.setattr("experiments.VERSION", 2)
    filled(path)
    before = path.read_bytes()
    monkeypatch.undo()
    with pytest.raises(SpikerlError, match="of format 2, this spikerl writes format 1: name"):
        Table(path)
    assert path.read_bytes() == before


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("format,cell,colour\n7,abc,red\n")
    with pytest.raises(SpikerlError, match="of format 7, this spikerl writes format 1"):
        Table(path)


def with_columns(path: Path, names: list[str]) -> None:
    """A table of the present format with one row, and these columns."""
    if path.suffix == ".csv":
        path.write_text(",".join(names) + "\n1" + "," * (len(names) - 1) + "\n")
        return
    import pyarrow
    from pyarrow import parquet

    about = {"spikerl": json.dumps({"format": 1})}
    schema = pyarrow.schema([(name, pyarrow.string()) for name in names], metadata=about)
    parquet.write_table(schema.empty_table(), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda names: [n for n in names if n not in ("seed", "host")], "lacks 'seed', 'host'. W"),
        (lambda names: [*names, "colour"], "has besides 'colour'"),
        (lambda names: [*names[:-1], "colour"], "lacks 'worker'; it has besides 'colour'"),
        (lambda names: [*names, "host"], "has more than once 'host'"),
        (lambda names: [*names[:2], *names[:1:-1]], "has them in another order"),
    ],
)
def test_columns_of_the_present_format_that_differ_are_named(
    path: Path, change: Callable[[list[str]], list[str]], message: str
) -> None:
    with_columns(path, change(list(COLUMNS)))
    before = path.read_bytes()
    with pytest.raises(SpikerlError, match=f"are not those of format 1: it {message}") as caught:
        Table(path)
    assert "this spikerl writes" not in str(caught.value)
    assert path.read_bytes() == before


def test_results_of_another_spikerl_are_refused(path: Path) -> None:
    with Table(path) as table:
        table.add(row_of(CELLS[0], spikerl="0.0.3"))
    with pytest.raises(SpikerlError, match=r"holds results of spikerl 0\.0\.3, this is 0\.1\.0"):
        Table(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"name,age\nx,1\n", "is no result table of spikerl"),
        ("a.csv", b"\xff\xfe\n", "is damaged"),
        ("a.csv", b"no line at all", "is no result table"),
        ("a.parquet", b"PAR1 and then nothing", "is damaged, or no Parquet"),
        ("a.txt", b"", r"must end in \.csv or \.parquet"),
    ],
)
def test_other_files_are_refused_and_left_alone(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SpikerlError, match=message):
        Table(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("sim_steps", "eight", "line 2 is damaged: invalid literal"),
        ("return", "high", "line 2 is damaged: could not convert"),
        ("format", "2", "of format 2"),
        ("cell", "", "without a name"),
    ],
)
def test_a_damaged_row_is_refused(tmp_path: Path, column: str, text: str, message: str) -> None:
    path = tmp_path / "results.csv"
    filled(path, 1)
    head, line = csv.reader(path.read_text().splitlines())
    line[head.index(column)] = text
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, line])
    with pytest.raises(SpikerlError, match=message):
        Table(path)


def test_a_cell_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    filled(path, 1)
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(SpikerlError, match="holds a cell twice"):
        Table(path)


def test_an_empty_file_is_an_empty_table(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.touch()
    filled(path)
    with Table(path) as table:
        assert len(table.rows) == 3


def test_a_row_has_the_columns_and_their_kinds() -> None:
    assert list(made_row({})) == list(COLUMNS)
    for values, message in (
        ({"sim_steps": 1.5}, "column sim_steps holds int, found 1.5"),
        ({"agent": 3}, "column agent holds str"),
        ({"return": "high"}, "column return holds float"),
        ({"colour": 1}, "has no column colour"),
    ):
        with pytest.raises(SpikerlError, match=message):
            made_row(values)
    assert made_row({"error": "a\nb  c\r\n"})["error"] == "a b c"


def test_results_go_beside_the_file_into_what_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "grid.yml"
    for module, ending in ((None, ".csv"), (object(), ".parquet")):
        monkeypatch.setattr("spikerl.experiment.table.find_spec", lambda name, m=module: m)
        assert default_path(file) == tmp_path / f"grid{ending}"
    (tmp_path / "grid.csv").touch()
    assert default_path(file) == tmp_path / "grid.csv"
    (tmp_path / "grid.parquet").touch()
    with pytest.raises(SpikerlError, match="are both there: pass --output"):
        default_path(file)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikerl.experiment.table.find_spec", lambda name: None)
    with pytest.raises(SpikerlError, match="needs pyarrow; install it"):
        Table(tmp_path / "a.parquet")
