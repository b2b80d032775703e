"""Nets for Dynap-SE2: Rockpool's simulation, chips that differ, training and acting."""

from __future__ import annotations

import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from spikerl import backends
from spikerl.dynapse import (
    Chip,
    DynapseNet,
    DynapsePolicy,
    counts,
    counts_by_row,
    imitate,
    returns_by_chip,
    spikes,
    train,
)
from spikerl.dynapse.circuit import CIRCUIT
from spikerl.encoding import ConstantCurrent, EquidistantSpikes
from spikerl.errors import BackendError, NetworkError, SpikerlError

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = DynapseNet.random(6, 4, 2, seed=1)
CHIPS = [Chip.drawn(6, 4, seed, circuit=0.3) for seed in range(3)]
RASTER = np.random.default_rng(0).random((80, 5, 6)) < 0.3


simulated = pytest.mark.skipif(
    find_spec("jax") is None or find_spec("rockpool") is None,
    reason="needs Rockpool and jax: pip install 'spikerl[dynapse]'",
)


@pytest.fixture(scope="module")
def noise() -> Any:
    """What examples/frozen_noise.py measures, shortened."""
    pytest.importorskip("jax")
    pytest.importorskip("rockpool")
    example = runpy.run_path(str(EXAMPLES / "frozen_noise.py"))
    return example["measure"](updates=150, unseen=20)


@simulated
def test_the_spikes_are_those_of_a_dynapsim_that_was_given_the_chips_parameters() -> None:
    """Rockpool's module, built by its constructor, against the one that spikerl compiled."""
    from rockpool.devices.dynapse import DynapSim

    from spikerl.dynapse.simulation import simulator

    got = spikes(SMALL, RASTER, CHIPS)
    assert got.shape == (3, 80, 5, 4)
    nominal = simulator(6, 4, 1.0).nominal
    for k, chip in enumerate(CHIPS):
        own = {name: nominal[name] * chip.circuit[name] for name in CIRCUIT}
        neurons = DynapSim((4, 4), has_rec=True, w_rec=SMALL.w_rec * chip.w_rec, dt=1e-3, **own)
        current = RASTER.astype(np.float32) @ (SMALL.w_in * chip.w_in)
        want = np.asarray(neurons(current.swapaxes(0, 1))[0]).swapaxes(0, 1)
        assert want.sum() > 50
        assert (got[k] != want).mean() < 0.01  # float32 in another order of adding
        assert np.abs(got[k].sum(0) - want.sum(0)).max() <= 1
    assert (got[0].sum(0) != got[1].sum(0)).any()  # chips do differ


@simulated
def test_counts_are_sums_of_spikes_and_rows_do_not_see_each_other() -> None:
    every = counts(SMALL, RASTER, CHIPS)
    assert np.array_equal(every, spikes(SMALL, RASTER, CHIPS).sum(1))
    alone = counts(SMALL, RASTER[:, 2:3], CHIPS)
    assert np.array_equal(alone[:, 0], every[:, 2])
    rows = counts_by_row(SMALL, RASTER, [CHIPS[k] for k in (0, 1, 2, 0, 1)])
    assert np.array_equal(rows, np.stack([every[k, i] for i, k in enumerate((0, 1, 2, 0, 1))]))
    assert np.array_equal(counts(SMALL, RASTER)[0], counts(SMALL, RASTER, [Chip.ideal(6, 4)])[0])


@simulated
def test_a_decision_starts_from_rest_and_leaves_numpys_generator_alone() -> None:
    before = np.random.get_state()[1].copy()
    first = counts(SMALL, RASTER)
    counts(SMALL, RASTER[::-1])
    assert np.array_equal(counts(SMALL, RASTER), first)
    counts(DynapseNet.random(3, 2, 2, seed=0), RASTER[:, :, :3])  # compiles a new shape
    assert np.array_equal(np.random.get_state()[1], before)


@simulated
def test_inhibition_takes_away_what_comes_in_the_same_step_and_nothing_else() -> None:
    net = DynapseNet([[2.0, 2.0], [-2.0, -2.0]], np.zeros((2, 2)), 2)
    raster = np.zeros((100, 3, 2))
    raster[::4, :, 0] = 1
    raster[::4, 1, 1] = 1  # together
    raster[2::4, 2, 1] = 1  # in between
    alone, together, between = counts(net, raster)[0, :, 0]
    assert together == 0
    assert between == alone > 5


@simulated
def test_the_circuit_is_all_that_rockpool_lets_differ_from_neuron_to_neuron() -> None:
    from rockpool.devices.dynapse import frozen_mismatch_prototype

    from spikerl.dynapse.simulation import rockpool_module

    module = rockpool_module(SMALL.w_in, SMALL.w_rec, 1.0)
    _, neurons = frozen_mismatch_prototype(module).values()
    assert {name for name, differs in neurons.items() if differs} == set(CIRCUIT)


def test_a_chip_is_drawn_within_its_mismatch_and_again_from_its_seed() -> None:
    chip, again = (Chip.drawn(60, 64, 7, weights=0.3, circuit=0.06) for _ in range(2))
    assert np.array_equal(chip.w_in, again.w_in)
    assert not np.array_equal(chip.w_in, Chip.drawn(60, 64, 8).w_in)
    assert chip.w_in.std() == pytest.approx(0.1, rel=0.05)
    assert chip.w_rec.mean() == pytest.approx(1.0, abs=0.01)
    assert np.stack(list(chip.circuit.values())).std() == pytest.approx(0.02, rel=0.05)
    assert not np.array_equal(chip.circuit["Io"], chip.circuit["Ut"])
    with pytest.raises(SpikerlError, match=r"mismatch of circuit must be in \[0, 1\), found 1.5"):
        Chip.drawn(2, 2, 0, circuit=1.5)


@simulated
def test_frozen_noises_are_told_apart_on_every_chip_and_with_spikes_missing(noise: Any) -> None:
    table, seen, _ = noise
    rows = {name: [float(value) for value in values] for name, *values in table}
    before, after, four_bits = rows["accuracy"]
    assert before < 0.6
    assert after == four_bits == 1.0
    assert rows["... on the worst of them"][1:] == [1.0, 1.0]
    assert min(rows["... 10 % of spikes dropped"][1:]) > 0.95
    for k in (0, 1):
        assert rows[f"ratio, pattern {k}"][0] < 1.5
        assert rows[f"ratio, pattern {k}"][1] > 2.5
    assert np.median(seen["after"]) < 2.0  # it knows the two, not any noise


@simulated
def test_training_is_repeatable_and_makes_no_synapse_that_was_not_there() -> None:
    start = DynapseNet(SMALL.w_in * ([[1], [0], [1], [1], [0], [1]]), np.zeros((4, 4)), 2)
    settings: dict[str, Any] = {"updates": 12, "batch_size": 3, "drop_spikes": 0.1, "seed": 3}
    first, second = (train(start, RASTER, [0, 1, 0, 1, 0], **settings) for _ in range(2))
    assert np.array_equal(first.net.w_in, second.net.w_in)
    assert np.array_equal(first.losses, second.losses)
    assert len(first.losses) == 12
    assert (first.net.w_in != start.w_in).sum() > 0.8 * (start.w_in != 0).sum()
    assert not first.net.w_in[start.w_in == 0].any()
    assert not first.net.w_rec.any()
    other = train(start, RASTER, [0, 1, 0, 1, 0], **{**settings, "seed": 4})
    assert not np.array_equal(first.net.w_in, other.net.w_in)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1]}, "labels must be 5 whole numbers"),
        ({"labels": [0.5] * 5}, "labels must be 5 whole numbers"),
        ({"labels": [0, 1, 2, 0, 1]}, r"labels must be 0\.\.1, found \[0 1 2\]"),
        ({"updates": 0}, "updates must be >= 1"),
        ({"drop_spikes": 1.0}, r"drop_spikes must be in \[0, 1\)"),
        ({"raster": RASTER[:, :, :3]}, r"shape \(80, 5, 3\), wanted \[T, B, 6\]"),
        ({"raster": RASTER - 0.5}, "finite and not negative"),
    ],
)
def test_what_cannot_be_trained_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"raster": RASTER, "labels": [0, 1, 0, 1, 0], **change}
    with pytest.raises(SpikerlError, match=message):
        train(SMALL, **arguments)


def test_a_net_that_does_not_fit_a_core_is_refused_with_every_reason() -> None:
    with pytest.raises(NetworkError) as caught:
        DynapseNet(np.ones((2, 258)), np.ones((258, 258)), 4, dt_ms=0)
    for reason in ("258 neurons, at most 256", "has 260 synapses", "divide 258", "dt_ms"):
        assert reason in str(caught.value)
    with pytest.raises(NetworkError, match=r"w_rec has shape \(2, 2\), wanted \(3, 3\)"):
        DynapseNet(np.ones((2, 3)), np.ones((2, 2)), 3)
    DynapseNet(np.ones((62, 2)), np.ones((2, 2)), 2)


def test_a_net_is_saved_and_loaded_and_another_file_is_refused(tmp_path: Path) -> None:
    SMALL.save(tmp_path / "net.npz")
    loaded = DynapseNet.load(tmp_path / "net.npz")
    assert np.array_equal(loaded.w_in, SMALL.w_in)
    assert np.array_equal(loaded.w_rec, SMALL.w_rec)
    assert (loaded.n_classes, loaded.dt_ms) == (2, 1.0)
    (tmp_path / "other").write_bytes(b"no arrays")
    with pytest.raises(SpikerlError, match="holds no DynapseNet"):
        DynapseNet.load(tmp_path / "other")
    np.savez(tmp_path / "pickled.npz", w_in=np.array([{}], dtype=object))
    with pytest.raises(SpikerlError, match="holds no DynapseNet"):
        DynapseNet.load(tmp_path / "pickled.npz")


def policy(**options: Any) -> DynapsePolicy:
    return DynapsePolicy(SMALL, EquidistantSpikes(), **options)  # 3 numbers, 6 channels


@simulated
def test_a_policy_takes_the_action_whose_neurons_fire_most() -> None:
    x = np.random.default_rng(5).uniform(-1, 1, (7, 3))
    decides = policy(chips=CHIPS)
    raster = decides.raster(x)
    assert raster.shape == (50, 7, 6)
    assert raster[::5].sum() == raster.sum() > 0
    wanted = np.stack(
        [counts(SMALL, raster[:, [i]], [CHIPS[i % 3]])[0, 0].reshape(2, 2).sum(0) for i in range(7)]
    )
    assert np.array_equal(decides.values(x), wanted)
    actions, state = decides.predict(x, state=None, episode_start=np.ones(7, bool))
    assert np.array_equal(actions, wanted.argmax(1))
    assert state is None
    one, _ = decides.predict(x[0])
    assert one.shape == ()
    assert one == actions[0]


def test_a_policy_refuses_what_it_cannot_do() -> None:
    with pytest.raises(SpikerlError, match="no distribution to sample from"):
        policy().predict(np.zeros(3), deterministic=False)
    with pytest.raises(SpikerlError, match=r"shape \(1, 4\) do not give the net's 6 channels"):
        policy().predict(np.zeros(4))
    with pytest.raises(SpikerlError, match="ConstantCurrent gives currents, wanted spikes"):
        DynapsePolicy(SMALL, ConstantCurrent()).predict(np.full(6, 0.5))
    with pytest.raises(SpikerlError, match="wanted sim_ms >= interval_ms >= dt_ms"):
        policy(interval_ms=0.1)
    with pytest.raises(SpikerlError, match="chip of 2 inputs and 2 neurons was given for a net of"):
        policy(chips=[Chip.ideal(2, 2)]).predict(np.zeros(3))


class Leaning:
    """Pushes the cart to where the pole leans and falls: about 200 steps of balance."""

    def predict(self, observation: Any, *, deterministic: bool) -> Any:
        return (observation[..., 2] + 0.3 * observation[..., 3] > 0).astype(int), None


@simulated
def test_two_neurons_learn_to_balance_a_pole_on_every_chip() -> None:
    def make_env() -> Any:
        return gymnasium.make("CartPole-v1")

    net = DynapseNet.random(8, 2, 2, seed=0)
    chips = [Chip.drawn(8, 2, 50 + seed) for seed in range(10)]
    start = DynapsePolicy(net, EquidistantSpikes(scale=[1.0, 1.0, 0.1, 1.0]))
    before = returns_by_chip(start, make_env, chips, episodes=2, seed=3)
    learned = imitate(start, Leaning(), make_env, rounds=2, observations=600, updates=80)
    after = returns_by_chip(learned, make_env, chips, episodes=2, seed=3)
    assert after.shape == (10, 2)
    assert before.mean() < 60
    assert after.mean(1).min() > 90
    assert learned.net is not start.net


def test_dynapse_is_no_back_end_and_the_registry_says_where_it_is() -> None:
    with pytest.raises(BackendError, match=r"no SpikingNetwork.*spikerl\.dynapse"):
        backends.get("dynapse")


def test_where_jax_is_missing_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["jax"] = None  # import jax raises ModuleNotFoundError
from spikerl.dynapse import DynapseNet, counts
from spikerl.errors import BackendError
try:
    counts(DynapseNet.random(3, 2, 2, seed=0), [[[1, 0, 1]]])
except BackendError as error:
    assert "pip install 'spikerl[dynapse]'" in str(error), error
else:
    raise SystemExit("simulated without jax")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_dynapse_imports_neither_rockpool_nor_jax() -> None:
    code = "import sys, spikerl.dynapse as d; d.DynapseNet.random(3, 2, 2, seed=0)\n"
    code += "assert not {'rockpool', 'jax', 'torch', 'samna'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
