"""Every back end that can run here keeps the neuron contract."""

import subprocess
import sys
from dataclasses import replace

import pytest

from spikerl import backends
from spikerl.backends import get
from spikerl.backends.base import Capabilities, capability_problems
from spikerl.backends.reference import ReferenceBackend
from spikerl.errors import SpikerlError
from spikerl.network import Dense, SpikingNetwork
from spikerl.testing import ConformanceError, check_backend, checks_for, parametrize_with_checks
from spikerl.testing.suite import CHECKS

USABLE = [name for name, state in backends.available().items() if state.usable]


@parametrize_with_checks(USABLE)
def test_conformance(backend, check):
    check(backend)


def test_every_check_is_named_once_and_says_a_sentence():
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.sentence.endswith(".") for check in CHECKS)


def test_the_report_lists_what_holds_and_what_was_not_declared():
    report = check_backend("reference")
    assert set(report.passed) | set(report.left_out) == {check.name for check in CHECKS}
    assert report.left_out == ("problems_is_complete",)  # the reference leaves nothing out
    assert "holds           quiet" in str(report)
    assert "not declared    problems_is_complete" in str(report)


def test_a_known_failure_that_holds_is_an_error():
    with pytest.raises(ConformanceError, match=r"quiet.*\n.*it holds, but is listed") as caught:
        check_backend("reference", known_failures={"quiet": "noisy"})
    assert [failure.check for failure in caught.value.failures] == ["quiet"]


def test_a_known_failure_of_no_check_is_an_error():
    with pytest.raises(ConformanceError, match="no_such_check"):
        check_backend("reference", known_failures={"no_such_check": "typo"})
    with pytest.raises(SpikerlError, match="no_such_check"):
        parametrize_with_checks(["reference"], {("reference", "no_such_check"): "typo"})


def test_parametrizing_no_back_end_is_an_error_and_not_an_empty_test():
    with pytest.raises(SpikerlError, match="no back end"):
        parametrize_with_checks([])


def test_known_failures_become_strict_xfails_with_their_reason():
    mark = parametrize_with_checks(["reference"], {("reference", "quiet"): "hums"}).mark
    names, params = mark.args
    assert names == ("backend", "check")
    marked = {param.id: param.marks for param in params if param.marks}
    assert list(marked) == ["reference-quiet"]
    assert marked["reference-quiet"][0].kwargs == {
        "strict": True,
        "raises": ConformanceError,
        "reason": "hums",
    }


@pytest.mark.parametrize(
    ("left_out", "gone"),
    [
        ({"decay": False}, {"leak_before_input", "matches_reference_leaky"}),
        ({"resets": frozenset({"subtract"})}, {"zero_discards_remainder"}),
        ({"resets": frozenset({"zero"})}, {"subtract_keeps_remainder"}),
        (
            {"recurrent": False},
            {"matches_reference_recurrent", "neurons_hear_themselves_a_step_later"},
        ),
        ({"bias": False}, {"bias_every_step"}),
        ({"refractory": False}, {"matches_reference_refractory", "refractory_neurons_are_held"}),
        ({"v_min": False}, {"matches_reference_floored", "floor_is_applied"}),
        ({"current": False}, {"current_outlasts_its_input", "matches_reference_with_currents"}),
        ({"adaptation": False}, {"spikes_lift_the_threshold", "matches_reference_adaptive"}),
        ({"layers": frozenset({"Dense"})}, {"matches_reference_convolutional"}),
        ({"max_delay_steps": 0}, {"matches_reference_delayed", "in_flight_spikes_do_not_leak"}),
        ({"keeps_state": False}, {"split_run_equals_one_run", "partial_reset_leaves_others"}),
        ({"partial_reset": False}, {"partial_reset_leaves_others"}),
        ({"weight_bits": 8}, {"small_increments_accumulate"}),
    ],
    ids=lambda value: "+".join(sorted(value)),
)
def test_a_check_is_generated_only_where_its_capability_is_declared(left_out, gone):
    class Backend:
        name = "lesser"
        capabilities = Capabilities(**{"current": True, "adaptation": True, **left_out})

    full = {check.name for check in checks_for("reference")}
    assert full - {check.name for check in checks_for(Backend())} == gone


def test_neurons_that_must_rest_are_tested_against_the_reference_alone():
    class Resting(ReferenceBackend):
        name = "resting"
        capabilities = replace(ReferenceBackend.capabilities, min_refractory_steps=1)

        def problems(self, network):
            return capability_problems(self.capabilities, network)

    report = check_backend(Resting())
    assert report.left_out == ()
    assert "problems_is_complete" in report.passed
    awake = SpikingNetwork([Dense([[1.0]]), Dense([[1.0]], spiking=False)])
    assert Resting().problems(awake) == ["layer 0: refractory_steps must be at least 1"]


def test_where_nothing_was_verified_no_number_is_compared_but_the_shapes_are():
    class Board(ReferenceBackend):
        """Counts that are all wrong by one, on a board that promises nothing."""

        name = "board"
        capabilities = Capabilities(exactness="unverified", keeps_state=False)
        change = staticmethod(lambda n: n + 1)

        def compile(self, network, **options):
            session = super().compile(network, **options)
            run = session._run

            def wrong(drive, record_spikes):
                got = run(drive, record_spikes)
                counts = tuple(self.change(n) for n in got.counts)
                return replace(got, counts=counts, spikes=None)

            session._run = wrong
            return session

    checks = {check.name: check for check in checks_for(Board())}
    checks["matches_reference"](Board())
    board = Board()
    board.change = lambda n: n[:, :0]
    with pytest.raises(ConformanceError, match=r"found counts of layer 0: int64 \(3, 0\)"):
        checks["records"](board)
    board = Board()
    board.capabilities = Capabilities(exactness="counts", keeps_state=False)
    with pytest.raises(ConformanceError, match="spike counts"):
        checks["matches_reference"](board)


def test_a_name_is_as_good_as_a_back_end():
    assert checks_for("reference") == checks_for(get("reference"))


def test_the_whole_test_file_of_another_package_is_five_lines(tmp_path):
    (tmp_path / "elsewhere.py").write_text(
        "from spikerl.backends.reference import ReferenceBackend\n"
        "class MyBackend(ReferenceBackend):\n"
        "    name = 'mine'\n"
    )
    (tmp_path / "test_mine.py").write_text(
        "from spikerl.testing import parametrize_with_checks\n"
        "from elsewhere import MyBackend\n"
        "@parametrize_with_checks([MyBackend()], {('mine', 'records'): 'none are'})\n"
        "def test_conformance(backend, check):\n"
        "    check(backend)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not memory"]
    command += ["-p", "no:nengo"]  # where nengo is installed, its plug-in breaks pytest 9
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "test_conformance[mine-records]" in ran.stdout
    assert "[XPASS(strict)] none are" in ran.stdout
    assert f"1 failed, {len(checks_for('reference')) - 2} passed" in ran.stdout
