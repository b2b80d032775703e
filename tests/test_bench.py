"""The bench runs, names every contender and says what is missing; no test looks at a clock."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest

from spikerl import bench
from spikerl.backends import available
from spikerl.errors import BackendError, SpikerlError

SMALL = {"sim_steps": (8,), "batch_sizes": (1, 3), "nets": ("4-8-2",), "quick": True}


def test_every_contender_gets_positive_figures() -> None:
    lines: list[str] = []
    result = bench.run_bench(**SMALL, progress=lines.append)
    # names with a colon share a simulator with another one
    expected = {n for n, state in available().items() if state.usable and ":" not in n}
    expected.add(bench.CPU_FLOAT32)
    for simulator in {"genn", "nengo", "nest", "rockpool", "spikingjelly", "xylo"} & expected:
        expected.add(simulator + bench.ALONE)
        said = [note for note in result.notes if "long as the simulator takes" in note]
        assert any(note.startswith(simulator) for note in said)
    if find_spec("torch"):
        expected.add(bench.TORCH_LOOP)
        if find_spec("stable_baselines3"):
            expected.add(bench.SB3)
    for batch in (1, 3):
        assert {row.backend for row in result.rows if row.batch == batch} == expected
    for row in result.rows:
        assert row.decisions_per_cpu_second > 0
        assert (row.ratio_to_torch_loop is None) == (bench.TORCH_LOOP not in expected)
        assert (row.ratio_to_sb3 is None) == (bench.SB3 not in expected)
        if row.backend == bench.SB3 or row.backend.endswith(bench.ALONE):
            assert row.mean_rate is None
        else:
            assert 0 < row.mean_rate < 1
    assert lines == ["4-8-2, T = 8, batch 1", "4-8-2, T = 8, batch 3"]
    assert json.loads(json.dumps(result.to_dict()))["rows"][0]["net"] == "4-8-2"


def test_rounds_are_shared_between_contenders() -> None:
    result = bench.run_bench(
        sim_steps=(4,),
        batch_sizes=(1,),
        nets=("2-4-2",),
        backends=("cpu", "reference"),
        seconds=0.1,
    )
    speed = {row.backend: row.decisions_per_cpu_second for row in result.rows}
    assert speed["cpu"] > 0
    assert speed["reference"] > 0


def test_without_torch_and_sb3_the_columns_are_absent_and_a_note_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    result = bench.run_bench(**SMALL, backends=("cpu",))
    assert {row.backend for row in result.rows} == {"cpu", bench.CPU_FLOAT32}
    assert all(row.ratio_to_sb3 is None and row.ratio_to_torch_loop is None for row in result.rows)
    assert any("torch is not installed" in note for note in result.notes)


def test_a_back_end_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BackendError, match="no back end 'abacus'"):
        bench.run_bench(**SMALL, backends=("abacus",))
    with pytest.raises(BackendError, match=r"'abacus'.*'sundial'"):
        bench.run_bench(**SMALL, backends=("abacus", "sundial"))


@pytest.mark.parametrize("net", ["8", "8-x-2", "8-0-2", ""])
def test_a_net_that_is_none_is_refused(net: str) -> None:
    with pytest.raises(SpikerlError, match="written like"):
        bench.random_network(net)


def test_the_nets_of_the_bench_fire_at_realistic_rates() -> None:
    network = bench.random_network("8-64-64-4")
    drive = np.broadcast_to(np.random.default_rng(0).standard_normal((50, 8)), (100, 50, 8))
    with bench.get("cpu").compile(network, batch_size=50) as session:
        rates = [counts.mean() / 100 for counts in session.run(drive).counts]
    assert all(0.03 < rate < 0.3 for rate in rates)


def test_memory_of_the_process_stays_flat() -> None:
    grown = bench.memory_growth(3000, net="4-16-16-2")
    assert grown.decisions == 3000
    assert grown.growth < 2_000_000
