"""Rasters beside frames, as RecordSpikes paints them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from recorders import Screen, play, pole, recorder

from spikerl.errors import SpikerlError
from spikerl.wrappers import RecordSpikes


@pytest.mark.parametrize("size", [(301, 201), (50, 40), (600, 400)])
def test_frames_have_the_raster_at_their_right(size: tuple[int, int]) -> None:
    pytest.importorskip("matplotlib")
    with recorder() as policy:
        env = RecordSpikes(Screen(*size), policy)
        observation, _ = env.reset(seed=0)
        empty = env.render()
        height, width, _ = empty.shape
        assert (height % 2, width % 2) == (0, 0)
        assert height >= 200
        factor = -(-200 // size[0])
        grey = (empty == 70).all(axis=2)
        assert grey[: factor * size[0], : factor * size[1]].all()
        inks = []
        for _ in range(3):
            action, _ = policy.predict(observation)
            observation, *_ = env.step(action)
            frame = env.render()
            assert frame.shape == empty.shape
            assert frame.dtype == np.uint8
            np.testing.assert_array_equal(frame[:, : size[1]], empty[:, : size[1]])
            inks.append(int((frame != empty).any(axis=2).sum()))
        spikes = [int(layer.sum()) for layer in env.episode.spikes]
    assert min(spikes) > 0
    assert 0 < inks[0] < inks[1] < inks[2]


def test_a_spike_is_painted_where_its_neuron_and_step_are() -> None:
    pytest.importorskip("matplotlib")
    from spikerl.plots.panel import Panel, shrunk

    panel = Panel((4, 8), sim_steps=5)
    frame = np.full((400, 300, 3), 9, np.uint8)
    silent = (np.zeros((5, 4), bool), np.zeros((5, 8), bool))
    empty = panel.beside(frame, [silent])
    places = {}
    for layer, step, neuron in ((0, 0, 0), (0, 4, 0), (0, 0, 3), (1, 0, 0), (1, 0, 7)):
        spikes = copy.deepcopy(silent)
        spikes[layer][step, neuron] = True
        changed = (panel.beside(frame, [spikes]) != empty).any(axis=2)
        rows, columns = np.nonzero(changed)
        assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        places[layer, step, neuron] = (rows.mean(), columns.mean())
    assert places[0, 0, 0][0] == places[0, 4, 0][0] > places[0, 0, 3][0]  # neuron 0 is below
    assert places[0, 0, 0][1] == places[1, 0, 7][1] < places[0, 4, 0][1]  # time goes right
    assert places[0, 0, 0][0] < places[1, 0, 7][0] < places[1, 0, 0][0]  # layers go down
    # More neurons than pixels: means, and no spike is lost.
    wide = np.zeros((1000, 3))
    wide[501, 1] = 1
    small = shrunk(wide, (10, 3))
    assert small[:, 1].sum() == pytest.approx(0.01)
    np.testing.assert_array_equal(shrunk(np.eye(2), (4, 2)), np.eye(2).repeat(2, axis=0))
    with pytest.raises(SpikerlError, match=r"render\(\) gave float64 \(4, 4\)"):
        panel.beside(np.zeros((4, 4)), [])


def test_lists_of_frames_are_refused_and_other_modes_are_as_they_were() -> None:
    pytest.importorskip("pygame", reason="CartPole draws with pygame")
    with recorder() as policy:
        listing = pole(render_mode="rgb_array_list")
        with pytest.raises(SpikerlError, match="or pass beside=False"):
            RecordSpikes(listing, policy)
        env = RecordSpikes(listing, policy, beside=False)
        play(env, policy)
        assert isinstance(env.render(), list)
        plain = pole(render_mode="rgb_array")
        env = RecordSpikes(plain, policy, beside=False)
        env.reset(seed=0)
        np.testing.assert_array_equal(env.render(), plain.render())
