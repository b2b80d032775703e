"""Plots of episodes: what is drawn is what was recorded, with names and units, as SVG and PNG."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from spikerl.episode import About, EpisodeRecording
from spikerl.errors import SpikerlError
from spikerl.network import Dense, SpikingNetwork
from spikerl.plots.drawing import COLOURS
from spikerl.reference import simulate

pytest.importorskip("matplotlib")

from spikerl import plots
from spikerl.plots.membranes import trace

D, T = 7, 5


def recorded(**about: Any) -> EpisodeRecording:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(D, 3))
    said: dict[str, Any] = {
        "environment": "Walk-v1",
        "backend": "cpu",
        "sim_steps": T,
        "dt_ms": 0.5,
        "meaning": "Q values",
        "choices": (3,),
        "n_decisions": D,
    }
    return EpisodeRecording(
        steps=np.arange(D) * 2,
        spikes=(draw.random((D, T, 6)) < 0.3, draw.random((D, T, 40)) < 0.1),
        potentials=(None, draw.normal(size=(D, 40)), draw.normal(size=(D, 3))),
        values=values,
        actions=values.argmax(axis=1),
        rewards=np.ones(D),
        about=About(**{**said, **about}),
    )


def lines(axes: Any) -> dict[str, Any]:
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_a_raster_has_a_dot_for_every_spike_of_the_last_decisions() -> None:
    episode = recorded(n_decisions=20)
    drawing = plots.raster(episode, decisions=4)
    assert len(drawing.all_axes) == 2
    for axes, layer in zip(drawing.all_axes, episode.spikes, strict=True):
        dots = axes.lines[0].get_xydata()
        want = [
            ((k * T + t + 0.5) * 0.5, neuron)
            for k, decision in enumerate(layer[-4:])
            for t, neuron in np.argwhere(decision)
        ]
        assert sorted(map(tuple, dots)) == sorted(want)
        ends = [line.get_xdata()[0] for line in axes.lines[1:]]
        assert ends == [2.5, 5.0, 7.5]
        low, high = axes.get_ylim()
        assert low < 0
        assert high > layer.shape[2] - 1
    assert drawing.axes.get_xlim() == (0, 4 * T * 0.5)
    label = "simulated time, ms (decisions 16 to 19, 5 steps each)"
    assert drawing.all_axes[-1].get_xlabel() == label
    assert drawing.axes.get_ylabel() == "layer 0:\nneuron"


def test_potentials_are_drawn_by_layer_and_neuron() -> None:
    episode = recorded()
    drawing = plots.potentials(episode, 1, [39, 2])
    assert episode.potentials[1] is not None
    for name, neuron in (("neuron 39", 39), ("neuron 2", 2)):
        want = np.stack([episode.steps, episode.potentials[1][:, neuron]], axis=1)
        np.testing.assert_array_equal(lines(drawing.axes)[name], want)
    assert drawing.axes.get_ylabel() == "potential of layer 1,\nunit of the weights"
    assert drawing.axes.get_xlabel() == "step of Walk-v1"
    assert len(lines(plots.potentials(episode, 1).axes)) == 8
    assert list(lines(plots.potentials(episode).axes)) == [f"neuron {i}" for i in range(3)]


def test_rates_are_spikes_per_neuron_and_step() -> None:
    episode = recorded()
    found = lines(plots.firing(episode).axes)
    for i, layer in enumerate(episode.spikes):
        want = layer.sum(axis=(1, 2)) / (T * layer.shape[2])
        np.testing.assert_allclose(found[f"layer {i}"][:, 1], want)


@pytest.mark.parametrize("meaning", ["Q values", "logits", "scores", "odds"])
def test_values_are_drawn_with_what_they_mean_and_what_was_done(meaning: Any) -> None:
    choices = (1, 1, 1) if meaning == "odds" else (3,)
    episode = recorded(meaning=meaning, choices=choices)
    drawing = plots.values(episode, ["left", "stay", "right"])
    found = lines(drawing.axes)
    want = episode.values
    if meaning == "logits":
        want = np.exp(want) / np.exp(want).sum(axis=1, keepdims=True)
    if meaning == "odds":
        want = 1 / (1 + np.exp(-want))
    for k, name in enumerate(("left", "stay", "right")):
        np.testing.assert_allclose(found[name][:, 1], want[:, k])
    names = {
        "Q values": "Q value",
        "logits": "probability of the action",
        "scores": "value of the action",
        "odds": "probability of 1",
    }
    assert drawing.axes.get_ylabel() == names[meaning]
    marks = drawing.axes.lines[3:]
    if meaning == "odds":
        assert not marks
    else:
        taken = [list(mark.get_xdata()) for mark in marks]
        assert taken == [list(episode.steps[episode.actions == k]) for k in range(3)]
        assert [mark.get_color() for mark in marks] == list(COLOURS[:3])


def test_continuous_actions_are_drawn_themselves() -> None:
    actions = np.random.default_rng(1).normal(size=(D, 2)).astype(np.float32)
    episode = replace(recorded(meaning="means", choices=(2,)), actions=actions)
    drawing = plots.values(episode)
    np.testing.assert_allclose(lines(drawing.axes)["action 1"][:, 1], actions[:, 1])
    assert drawing.axes.get_ylabel() == "action"


def test_what_was_not_kept_is_said() -> None:
    texts = [text.get_text() for text in plots.firing(recorded(n_decisions=20)).axes.texts]
    assert texts == ["13 decisions\nbefore were not kept"]
    assert not plots.firing(recorded()).axes.texts


def test_probabilities_of_several_choices_each_sum_to_one() -> None:
    found = recorded(meaning="logits", choices=(2, 1)).probabilities
    assert found is not None
    np.testing.assert_allclose(found[:, :2].sum(axis=1), 1)
    np.testing.assert_allclose(found[:, 2], 1)
    assert recorded().probabilities is None


def test_membranes_are_those_of_the_reference_step_by_step() -> None:
    draw = np.random.default_rng(2)

    def eighths(*shape: int) -> np.ndarray:  # sums of them are exact in any order
        return np.rint(draw.normal(size=shape) * 8) / 8

    layers = (
        Dense(eighths(5, 4), v_threshold=[1.0, 2.0, 1.0, 0.5, 3.0], delay_steps=1),
        Dense(eighths(3, 5), decay=0.5, spiking=False),
    )
    network = SpikingNetwork(layers, dt_ms=2.0)
    drive = eighths(12, 2, 4) + 0.5
    potentials, spikes = trace(network, drive)
    whole = simulate(network, drive)
    assert whole.spikes is not None
    assert whole.spikes[0].sum() > 5
    np.testing.assert_array_equal(spikes[0], whole.spikes[0])
    for t in (1, 7, 12):
        part = simulate(network, drive[:t])
        for v, want in zip(potentials, part.potentials, strict=True):
            np.testing.assert_array_equal(v[t - 1], want)
    drawing = plots.membranes(network, drive, 0, [3, 1], row=1)
    for axes, neuron, threshold in zip(drawing.all_axes, (3, 1), (0.5, 2.0), strict=True):
        v, level, fired = axes.lines
        np.testing.assert_array_equal(v.get_xdata(), np.arange(1, 13) * 2.0)
        np.testing.assert_array_equal(v.get_ydata(), potentials[0][:, 1, neuron])
        assert set(level.get_ydata()) == {threshold}
        times = (np.flatnonzero(whole.spikes[0][:, 1, neuron]) + 1) * 2.0
        np.testing.assert_array_equal(fired.get_xdata(), times)
    assert drawing.all_axes[-1].get_xlabel() == "simulated time, ms"
    readout = plots.membranes(network, drive, -1)
    assert [len(axes.lines) for axes in readout.all_axes] == [1, 1, 1]


def test_drawings_are_files_that_say_their_labels(tmp_path: Path) -> None:
    drawing = plots.values(recorded(), ["left", "stay", "right"])
    drawing.save(tmp_path / "values.svg")
    root = ElementTree.parse(tmp_path / "values.svg").getroot()
    texts = {text for node in root.iter() if (text := (node.text or "").strip())}
    assert {"Q value", "step of Walk-v1", "left", "stay", "right"} <= texts
    drawing.save(tmp_path / "values.png", dpi=100)
    data = (tmp_path / "values.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") == 700  # pixels wide: 7 inches
    assert plots.firing(recorded()).png() == plots.firing(recorded()).png()
    assert plots.firing(recorded()).svg == plots.firing(recorded()).svg
    with pytest.raises(SpikerlError, match=r"ends in '\.pdf'; wanted \.svg or \.png"):
        drawing.save(tmp_path / "values.pdf")
    with pytest.raises(SpikerlError, match="cannot be written"):
        drawing.save(tmp_path / "no folder" / "values.svg")


def test_colours_differ_in_lightness_or_hue_for_every_eye() -> None:
    def seen(colour: str, matrix: Any) -> Any:
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        return np.clip(matrix @ linear, 0, 1) ** (1 / 2.2)

    # Machado, Oliveira and Fernandes 2009: protanopia and deuteranopia, in linear RGB
    eyes = {
        "all": np.eye(3),
        "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    }
    for name, matrix in eyes.items():
        found = np.array([seen(colour, np.array(matrix)) for colour in COLOURS])
        apart = np.abs(found[:, None] - found[None]).max(axis=2)
        np.fill_diagonal(apart, 1)
        assert apart.min() > 0.1, name


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda e: plots.potentials(e, 3), "layer is 3; the episode has layers 0 to 2"),
        (lambda e: plots.potentials(e, 0), "'cpu' could not read the potentials of layer 0"),
        (lambda e: plots.potentials(e, 1, [40, 3]), r"neurons \[40\] are not there; .* 0 to 39"),
        (lambda e: plots.potentials(e, 1, list(range(9))), "9 neurons were chosen; 1 to 8"),
        (lambda e: plots.values(e, ["one"]), "names has 1 entries for 3 values"),
        (lambda e: plots.raster(e, 0), "decisions must be a whole number >= 1, found 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw: Any, message: str) -> None:
    with pytest.raises(SpikerlError, match=message):
        draw(recorded())


def test_an_empty_episode_and_one_that_does_not_fit_are_refused() -> None:
    episode = recorded()
    empty = EpisodeRecording(
        steps=episode.steps[:0],
        spikes=tuple(layer[:0] for layer in episode.spikes),
        potentials=(None, None, None),
        values=episode.values[:0],
        actions=episode.actions[:0],
        rewards=episode.rewards[:0],
    )
    for draw in (plots.raster, plots.potentials, plots.firing, plots.values):
        with pytest.raises(SpikerlError, match="the episode holds no decision"):
            draw(empty)
    with pytest.raises(SpikerlError, match="7 decisions: values has 6, spikes 0 has 0"):
        replace(episode, values=episode.values[1:], spikes=empty.spikes[:1])
    network = SpikingNetwork((Dense(np.eye(2)),))
    for arguments, message in (
        ({"layer": 1}, "layer is 1; the network has layers 0 to 0"),
        ({"row": 1}, "row is 1; the drive has rows 0 to 0"),
        ({"neurons": []}, "0 neurons were chosen"),
    ):
        with pytest.raises(SpikerlError, match=message):
            plots.membranes(network, np.zeros((3, 1, 2)), **arguments)  # type: ignore[arg-type]
