"""The registry: names, what is missing and how to install it, and plug-ins of other packages."""

import importlib.util
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from spikerl import backends
from spikerl.backends.base import Backend, Capabilities
from spikerl.backends.reference import ReferenceBackend
from spikerl.errors import BackendError, SpikerlError
from spikerl.network import Dense, SpikingNetwork

AGENT = Path(__file__).parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"


class PlugIn(ReferenceBackend):
    name = "plugin"
    capabilities = Capabilities(max_sessions=1)


class NoBackend:
    pass


class Raises:
    def __init__(self):
        raise RuntimeError("no licence")


@pytest.fixture
def plugins(monkeypatch):
    """Install entry points by name."""

    def install(**targets):
        def entry_points(*, group):
            assert group == "spikerl.backends"
            return [EntryPoint(name, target, group) for name, target in targets.items()]

        monkeypatch.setattr(backends, "entry_points", entry_points)

    return install


@pytest.fixture
def missing(monkeypatch):
    """Make modules look as if they were not installed."""

    def remove(*modules):
        found = backends.find_spec
        monkeypatch.setattr(
            backends, "find_spec", lambda name: None if name in modules else found(name)
        )

    return remove


@pytest.mark.parametrize("name", list(backends.TABLE))
def test_every_back_end_of_the_table_is_a_back_end_of_that_name(name):
    backend = backends.load(name, backends.TABLE[name].target)  # its simulator may be missing
    assert isinstance(backend, Backend)
    assert backend.name == name
    delay = backend.capabilities.min_delay_steps
    fields = {"delay_steps": delay, "reset": max(backend.capabilities.resets)}
    fields["refractory_steps"] = backend.capabilities.min_refractory_steps
    network = SpikingNetwork([Dense([[1.0]], **fields), Dense([[1.0]], spiking=False)])
    assert backend.problems(network) == []


def test_what_can_run_is_ready():
    assert str(backends.available()["reference"]) == "ready"
    assert backends.available()["reference"].usable


def test_an_unknown_name_lists_what_exists_and_what_to_install(missing):
    missing("torch")
    with pytest.raises(BackendError) as caught:
        backends.get("nest-ish")
    text = str(caught.value)
    assert "there is no back end 'nest-ish'" in text
    assert "- reference: ready" in text
    assert "- torch: needs torch; install it: pip install 'spikerl[torch]'" in text


def test_a_missing_dependency_says_which_extra_installs_it(missing):
    missing("torch")
    with pytest.raises(
        BackendError, match=r"'torch' cannot be used here: needs torch; .*\[torch\]"
    ):
        backends.get("torch")
    state = backends.available()["torch"]
    assert not state.usable
    assert state.reason == "needs torch"
    assert state.install == "install it: pip install 'spikerl[torch]'"


def test_a_missing_core_dependency_says_how_to_mend_the_installation(missing):
    missing("numba")
    with pytest.raises(BackendError, match=r"needs numba; .*--force-reinstall spikerl"):
        backends.get("cpu")


def boardless(monkeypatch):
    """The back end "loihi" as on a machine with its packages, but without a board's."""
    found = importlib.util.find_spec
    needs = backends.TABLE["loihi"].needs
    monkeypatch.setattr(
        backends, "find_spec", lambda m, *more: True if m in needs else found(m, *more)
    )
    monkeypatch.setattr(
        "spikerl.backends.loihi_board.find_spec", lambda m: None if m == "nxsdk" else found(m)
    )


def test_a_back_end_whose_board_is_missing_is_there_but_not_ready(monkeypatch):
    boardless(monkeypatch)
    assert backends.get("loihi").name == "loihi"
    with pytest.raises(BackendError, match=r"'loihi' cannot be used here: NxSDK is not installed:"):
        backends.ready("loihi")
    assert backends.ready("cpu").name == "cpu"
    with pytest.raises(BackendError, match="there is no back end 'abacus'"):
        backends.ready("abacus")


def _evaluated(folder):
    from spikerl.cli.evaluate import evaluate

    evaluate(AGENT, backend="loihi")


def _watched(folder):
    from spikerl.cli.watch import watch

    watch(folder / "agent.spk", backend="loihi")


def _benched(folder):
    from spikerl.bench import run_bench

    run_bench(backends=["loihi"])


def _soaked(folder):
    from spikerl.testing.soak import soak

    next(soak(5, ["loihi"]))


def _experimented(folder):
    from spikerl.experiment import cells_of, make_grid

    cells_of(make_grid({"agents": [str(AGENT)], "backends": ["loihi"]}, folder))


def _called_back(folder):
    from spikerl.callbacks import ConversionCallback

    ConversionCallback(backend="loihi")


@pytest.mark.parametrize(
    "command", [_evaluated, _watched, _benched, _soaked, _experimented, _called_back]
)
def test_nothing_is_begun_for_a_back_end_that_is_not_usable_here(command, monkeypatch, tmp_path):
    boardless(monkeypatch)

    def begun(*_, **__):
        raise AssertionError("the work has begun")

    for work in ("spikerl.conversion.open_source", "spikerl.hardware.HardwarePolicy"):
        monkeypatch.setattr(work, begun)
    with pytest.raises(SpikerlError, match="NxSDK is not installed: Intel gives it"):
        command(tmp_path)


def test_a_back_end_of_another_package_is_found(plugins):
    plugins(plugin=f"{__name__}:PlugIn")
    assert backends.available()["plugin"].usable
    assert isinstance(backends.get("plugin"), PlugIn)
    assert backends.capabilities("plugin") == PlugIn.capabilities


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no_such_package:Thing", "No module named 'no_such_package'"),
        (f"{__name__}:NoSuchClass", "has no attribute 'NoSuchClass'"),
        (f"{__name__}:Raises", "RuntimeError: no licence"),
        (f"{__name__}:NoBackend", "is no back end: it lacks name, capabilities"),
    ],
)
def test_a_broken_plug_in_is_named_and_breaks_no_other(plugins, target, said):
    plugins(broken=target, plugin=f"{__name__}:PlugIn")
    states = backends.available()
    assert states["plugin"].usable
    assert states["reference"].usable
    assert not states["broken"].usable
    assert said in str(states["broken"])
    with pytest.raises(BackendError, match=r"broken|NoBackend"):
        backends.get("broken")
    assert backends.capabilities("broken") is None
    assert isinstance(backends.get("plugin"), PlugIn)
    with pytest.raises(BackendError, match="- broken: "):
        backends.get("no such name")


def test_a_plug_in_cannot_take_the_name_of_a_back_end_of_the_table(plugins):
    plugins(reference=f"{__name__}:PlugIn")
    assert type(backends.get("reference")) is ReferenceBackend


def test_the_registry_imports_nothing_until_it_is_asked():
    code = (
        "import sys, spikerl, spikerl.backends as b; b.available(); b.get('reference'); "
        "import spikerl.testing; "
        "print([m for m in ('torch', 'numba', 'gymnasium', 'pytest') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
