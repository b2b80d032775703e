"""spikerl watch: the video shows the episode and the spikes, and what is missing is named."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from processes import run_python
from small_agents import catcher

import spikerl.envs  # noqa: F401 - registers Catch
from spikerl.cli.watch import watch
from spikerl.episode import EpisodeRecording
from spikerl.errors import SpikerlError
from spikerl.hardware import HardwarePolicy


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "catcher.spk"
    catcher().save(path)
    return path


def test_each_episode_becomes_a_video_of_frames_and_spikes(saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("moviepy", reason="videos are written with moviepy")
    pytest.importorskip("matplotlib")
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    folder = tmp_path / "new" / "videos"
    options = ("-o", folder, "--episodes", 2, "--seed", 4, "--spikes", "--last", 15, "--json")
    done = run_python("-m", "spikerl", "watch", saved, *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["sim_steps"] == 8
    assert sorted(path.name for path in folder.iterdir()) == [
        *("catcher-seed-4.mp4", "catcher-seed-4.npz"),
        *("catcher-seed-5.mp4", "catcher-seed-5.npz"),
    ]
    for seed, entry in zip((4, 5), told["episodes"], strict=True):
        assert entry["seed"] == seed
        assert entry["ended"] == "terminated"
        assert entry["length"] == 20
        with HardwarePolicy(saved, record_spikes=True, seed=4) as policy:
            env = gym.make("spikerl/Catch-v0", render_mode="rgb_array")
            observation, _ = env.reset(seed=seed)
            frames: list[Any] = [env.render()]
            spikes, total = [], 0.0
            for _ in range(20):
                action, _ = policy.predict(observation)
                assert policy.recording is not None
                assert policy.recording.spikes is not None
                spikes.append(policy.recording.spikes[0][:, 0])
                observation, reward, *_ = env.step(action)
                frames.append(env.render())
                total += float(reward)
        assert entry["return"] == total
        episode = EpisodeRecording.load(entry["spikes"])
        np.testing.assert_array_equal(episode.spikes[0], spikes[-15:])
        assert episode.about.seed == seed
        command = [ffmpeg.get_ffmpeg_exe(), "-i", entry["video"], "-loglevel", "error"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        pixels = subprocess.run(command, capture_output=True, check=True).stdout
        found = np.frombuffer(pixels, np.uint8).reshape(-1, 336, 336 + 360, 3)
        assert len(found) == 21
        for shot, frame in zip(found, frames, strict=True):
            apart = np.abs(shot[:, :336].astype(int) - frame)
            assert apart.mean() < 4  # of 255: films are compressed
        ink = [int((shot[:, 336:].min(axis=2) < 150).sum()) for shot in found]
        assert ink[10] > ink[0] + 200  # the raster has filled


def test_a_long_episode_is_filmed_as_far_as_asked(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("moviepy", reason="videos are written with moviepy")
    pytest.importorskip("matplotlib")
    watch(saved, output=tmp_path, steps=3)
    assert "return 0 in 3 steps, stopped there" in capsys.readouterr().out
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".mp4", ".spk"]


@pytest.mark.parametrize("missing", [("moviepy",), ("moviepy", "matplotlib")])
def test_what_is_not_installed_is_named(missing: tuple[str, ...], monkeypatch: Any) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else found("json")
    )
    message = f"videos need {' and '.join(missing)}; install it: pip install 'spikerl\\[video\\]'"
    with pytest.raises(SpikerlError, match=message):
        watch(Path("agent.spk"))


class Blind(gym.Env[Any, Any]):
    """Catch's spaces, and nothing to see."""

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, render_mode: str | None = None) -> None:
        inner = gym.make("spikerl/Catch-v0")
        self.observation_space, self.action_space = inner.observation_space, inner.action_space
        self.render_mode = render_mode


class Undrawn(Blind):
    """Frames need a package that is not there."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - the same

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros((84, 84, 1), np.uint8), {}

    def render(self) -> Any:
        raise gym.error.DependencyNotInstalled('run pip install "crayons"')


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"provenance": {}}, {}, "does not say which environment it is for; pass --env"),
        ({}, {"env": "Blind-v0"}, "it draws no frames: render modes are ansi, wanted rgb_array"),
        ({}, {"env": "Undrawn-v0"}, 'Undrawn-v0 cannot be drawn: run pip install "crayons"'),
        ({}, {"env": "Nothing-v0"}, "Nothing-v0 cannot be made"),
        ({}, {"env": "CartPole-v1"}, r"(?s)observation has shape \(4,\).*actions are Discrete\(2"),
        ({}, {"backend": "abacus"}, "there is no back end 'abacus'"),
        ({}, {"episodes": 0, "last": 0, "steps": 0}, "(?s)episodes must be .*last .*steps"),
        (
            {},
            {"backend": "abacus", "sim_steps": 0, "seed": -1, "episodes": 0},
            "(?s)episodes must be .*seed must be .*sim_steps must be .*no back end 'abacus'",
        ),
    ],
)
def test_what_cannot_be_watched_is_refused(
    changes: dict[str, Any],
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr("spikerl.cli.watch._refuse_missing", lambda: None)
    for kind in (Blind, Undrawn):
        spec = gym.envs.registration.EnvSpec(f"{kind.__name__}-v0", entry_point=kind)
        monkeypatch.setitem(gym.registry, spec.id, spec)
    path = tmp_path / "agent.spk"
    catcher(**changes).save(path)
    with pytest.raises(SpikerlError, match=message):
        watch(path, output=tmp_path / "videos", **options)
    assert not (tmp_path / "videos").exists()
