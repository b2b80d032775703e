"""The conformance suite is itself tested: seeded defects are caught, right back ends are not."""

import re
import weakref

import numpy as np
import pytest
from defective import DEFECTS, NumpyBackend, Quantised, Right

from spikerl.backends.base import Capabilities
from spikerl.errors import BackendError
from spikerl.network import Dense, NeuronLayer
from spikerl.reference import simulate
from spikerl.testing import ConformanceError, check_backend, checks_for, dyadic, networks
from spikerl.testing.suite import CHECKS

COUNTS = {"records": frozenset({"counts"}), "exactness": "spikes"}
SPIKES_IN = {"drive": frozenset({"spikes"})}


def test_the_right_session_passes_every_check():
    assert len(check_backend(NumpyBackend()).passed) == len(CHECKS) - 1


@pytest.mark.parametrize(
    ("name", "check"),
    [(name, check) for name, (_, caught_by) in DEFECTS.items() for check in caught_by],
)
def test_a_seeded_defect_is_caught_by_the_check_that_speaks_of_it(name, check):
    backend, _ = DEFECTS[name]
    (chosen,) = [c for c in checks_for(backend) if c.name == check]
    with pytest.raises(ConformanceError, match=check):
        chosen(backend)


def test_every_check_catches_a_defect():
    caught_by = {check for _, names in DEFECTS.values() for check in names}
    assert caught_by == {check.name for check in CHECKS}


def test_all_failures_are_reported_at_once_with_sentence_found_and_wanted():
    backend, _ = DEFECTS["FlippedKernel"]
    with pytest.raises(ConformanceError) as caught:
        check_backend(backend)
    names = [failure.check for failure in caught.value.failures]
    assert names == ["matches_reference_convolutional", "effective_network_reproduces_device"]
    text = str(caught.value)
    assert "Convolutions with stride and padding" in text
    assert re.search("found .*, wanted ", text)


def test_known_failures_are_let_through_and_named_in_the_report():
    backend, _ = DEFECTS["RecordsAreViews"]
    known = {"recordings_do_not_change_later": "shares its buffers"}
    report = check_backend(backend, known_failures=known)
    assert report.known == known
    assert "known failure   recordings_do_not_change_later: shares its buffers" in str(report)


class OneAtATime(NumpyBackend):
    """A simulator that is global to the process, and says so."""

    def __init__(self):
        super().__init__(max_sessions=1)
        self.open = lambda: None

    def compile(self, network, **options):
        if self.open() is not None and not self.open().closed:
            raise BackendError("one session at a time; close the other")
        session = super().compile(network, **options)
        self.open = weakref.ref(session)  # must not keep a forgotten session alive
        return session


class Forgetful(Right):
    """Starts each run anew."""

    def _run(self, drive, record_spikes):
        super()._reset(None)
        return super()._run(drive, record_spikes)


class SixBits(Quantised):
    bits = 6


class Noisy(Right):
    """Spikes jitter with the seed; rates are right."""

    def __init__(self, network, batch_size):
        self.rng = np.random.default_rng(0)
        super().__init__(network, batch_size)

    def integrated(self, layer, v, current):
        return super().integrated(layer, v, current) + self.rng.normal(0, 2.0**-12, v.shape)


LESSER = {
    "counts only": NumpyBackend(**COUNTS),
    "exact counts": NumpyBackend(records=frozenset({"counts"}), exactness="counts"),
    "no potentials": NumpyBackend(records=frozenset({"counts", "spikes"}), exactness="spikes"),
    "last potential": NumpyBackend(records=frozenset({"counts", "spikes", "potential"})),
    "spikes in": NumpyBackend(**SPIKES_IN),
    "currents in": NumpyBackend(drive=frozenset({"current"})),
    "always delayed": NumpyBackend(min_delay_steps=1, max_delay_steps=4),
    "only delay 1": NumpyBackend(min_delay_steps=1, max_delay_steps=1),
    "never delayed": NumpyBackend(max_delay_steps=0),
    "only zero": NumpyBackend(resets=frozenset({"zero"})),
    "only subtract": NumpyBackend(resets=frozenset({"subtract"})),
    "only Dense": NumpyBackend(layers=frozenset({"Dense"})),
    "no pooling": NumpyBackend(layers=frozenset({"Dense", "Conv2d"})),
    "bare": NumpyBackend(decay=False, bias=False, recurrent=False, refractory=False, v_min=False),
    "small": NumpyBackend(limits={"neurons": 12, "neurons_per_layer": 6, "fan_in": 5, "inputs": 4}),
    "one session": OneAtATime(),
    "forgetful": NumpyBackend(Forgetful, keeps_state=False, partial_reset=False),
    "8 bits": NumpyBackend(Quantised, weight_bits=8),
    "6 bits": NumpyBackend(SixBits, weight_bits=6),
    "rates": NumpyBackend(Noisy, exactness="rates", tolerance=0.1),
    "chip": NumpyBackend(
        Quantised,
        weight_bits=8,
        min_delay_steps=1,
        max_delay_steps=1,
        layers=frozenset({"Dense"}),
        recurrent=False,
        **COUNTS,
        **SPIKES_IN,
    ),
}


@pytest.mark.parametrize("name", LESSER)
def test_a_right_back_end_passes_whatever_it_declares(name):
    backend = LESSER[name]
    for check in checks_for(backend):
        if check.name != "memory_stays_flat":  # a second each, and the same for all
            check(backend)


@pytest.mark.parametrize("declared", ["counts only", "spikes in", "always delayed", "bare"])
@pytest.mark.parametrize(
    "defect",
    [
        "StrictThreshold",
        "SubtractForZero",
        "ZeroForSubtract",
        "FloorAtZero",
        "FloorAtMinusThreshold",
        "SeveralSpikesPerStep",
        "TransposedSquareWeights",
        "ShuffledRows",
        "StaleState",
        "StateDroppedBetweenRuns",
        "PartialResetResetsAll",
        "HidesItsQuantisation",
    ],
)
def test_declaring_less_does_not_hide_a_defect(defect, declared):
    backend, _ = DEFECTS[defect]
    lesser = NumpyBackend(backend.session)
    lesser.capabilities = LESSER[declared].capabilities
    assert any(fails(check, lesser) for check in checks_for(lesser))


def fails(check, backend):
    try:
        check(backend)
    except ConformanceError:
        return True
    return False


@pytest.mark.parametrize("seed", range(3))
def test_the_networks_of_the_suite_are_alive(seed):
    c = Capabilities()
    rng = np.random.default_rng(seed)
    for network in (
        dyadic.stack(rng, c, readout=False),
        dyadic.convolutional(rng, c),
        networks.everything(c, seed),
    ):
        spikes = simulate(network, dyadic.drive(rng, c, network, 12, 8)).spikes
        assert all(0.05 < s.mean() < 0.95 for s in spikes)


def test_the_networks_of_the_suite_are_exact_in_float32():
    c = Capabilities()
    network = networks.everything(c, 0)
    for layer in network.layers:
        values = layer.weight if isinstance(layer, Dense) else np.zeros(1)
        assert (values * 4 == np.rint(values * 4)).all()
    drive = dyadic.drive(np.random.default_rng(0), c, network, dyadic.steps(c, 0.5), 8)
    for potential in simulate(network, drive).potentials:
        assert (potential == potential.astype(np.float32)).all()
    assert isinstance(network.layers[0], NeuronLayer)


def test_an_unexpected_exception_is_a_failure_with_its_cause():
    class Broken(Right):
        def _run(self, drive, record_spikes):
            raise ZeroDivisionError("inside")

    backend = NumpyBackend(Broken)
    with pytest.raises(ConformanceError, match="ZeroDivisionError: inside") as caught:
        checks_for(backend)[0](backend)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
