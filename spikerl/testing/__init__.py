"""The conformance suite: prove that a back end keeps the neuron contract.

The whole test file of a back end that lives in another package:

    from spikerl.testing import parametrize_with_checks
    from mypackage import MyBackend

    @parametrize_with_checks([MyBackend()])
    def test_conformance(backend, check):
        check(backend)

Without pytest: print(check_backend("cpu")).
"""

from spikerl.testing.suite import (
    Check,
    ConformanceError,
    Failure,
    Report,
    check_backend,
    checks_for,
    parametrize_with_checks,
)

__all__ = [
    "Check",
    "ConformanceError",
    "Failure",
    "Report",
    "check_backend",
    "checks_for",
    "parametrize_with_checks",
]
