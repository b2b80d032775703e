"""Learning curves of real runs of SB3's EvalCallback."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from spikerl.errors import SpikerlError

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor

from spikerl.plots import learning
from spikerl.statistics import iqm


def write(folder: Path, steps: list[int], results: np.ndarray) -> Path:
    folder.mkdir()
    np.savez(folder / "evaluations.npz", timesteps=np.array(steps), results=results)
    return folder


def test_a_curve_is_the_interquartile_mean_within_its_interval(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = [rng.normal([[10.0], [50.0], [90.0]], 5.0, (3, 8)) for _ in range(3)]
    folders = [write(tmp_path / f"run{i}", [100, 200, 300], run) for i, run in enumerate(runs)]
    drawing = learning({"spiking": folders, "other": folders[:1]}, "return on a task")
    line, single = drawing.axes.get_lines()
    expected = [iqm(np.stack(runs)[:, k].ravel()) for k in range(3)]
    np.testing.assert_allclose(line.get_ydata(), expected)
    np.testing.assert_array_equal(line.get_xdata(), [100, 200, 300])
    assert single.get_label() == "other, 1 run"
    band = drawing.axes.collections[0].get_paths()[0].vertices
    for k, step in enumerate((100, 200, 300)):
        edges = band[band[:, 0] == step, 1]
        assert edges.min() < expected[k] < edges.max()
    assert drawing.axes.get_ylabel() == "return on a task, interquartile mean"
    assert "spiking, 3 runs" in drawing.svg


def test_what_sb3_wrote_is_read(tmp_path: Path) -> None:
    judge = EvalCallback(
        Monitor(gym.make("CartPole-v1")),
        eval_freq=64,
        n_eval_episodes=2,
        log_path=str(tmp_path),
        verbose=0,
    )
    PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu").learn(128, callback=judge)
    line = learning({"ordinary": [tmp_path]}).axes.get_lines()[0]
    np.testing.assert_array_equal(line.get_xdata(), [64, 128])


def test_every_folder_that_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    fine = write(tmp_path / "fine", [1, 2], np.ones((2, 3)))
    late = write(tmp_path / "late", [1, 3], np.ones((2, 3)))
    short = write(tmp_path / "short", [1, 2], np.ones((2, 2)))
    odd = write(tmp_path / "odd", [1, 2], np.ones((3, 2)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpikerlError) as error:
        learning({"a": [fine, late, short, odd, tmp_path / "empty"]})
    for said in (
        "late/evaluations.npz was judged at other time steps than the first run of 'a'",
        "short/evaluations.npz has 2 episodes each time, the first run of 'a' 3",
        "odd/evaluations.npz has results (3, 2) for 2 time steps",
        "empty has no evaluations.npz of SB3's EvalCallback",
    ):
        assert said in str(error.value)
    with pytest.raises(SpikerlError, match="a name without any"):
        learning({"a": []})


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (["a", "b"], "runs is list; wanted folders of training runs by name"),
        ("a", "runs is str; wanted"),
        (None, "runs is NoneType; wanted"),
        ({"a": "folder"}, "the runs of 'a' are 'folder'; wanted a list of folders"),
        ({"a": Path("folder")}, r"the runs of 'a' are .*; wanted a list of folders"),
        ({"a": [3]}, r"the runs of 'a' are \[3\]; wanted a list of folders"),
    ],
)
def test_what_is_no_folders_by_name_is_refused(runs: object, said: str) -> None:
    with pytest.raises(SpikerlError, match=said):
        learning(runs)  # type: ignore[arg-type]
