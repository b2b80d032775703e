"""spikerl watch: a video of an agent at work, with what its neurons do beside it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from spikerl.cli.console import EnvId, Json, out, print_json, progress_bar
from spikerl.errors import SpikerlError, listed, problems_of, refuse


def watch(
    agent: Annotated[Path, typer.Argument(help="A saved spiking agent, such as cartpole.spk.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for one .mp4 per episode.")
    ] = Path("videos"),
    env: EnvId = None,
    backend: Annotated[str, typer.Option(help="Where the spiking network runs.")] = "cpu",
    episodes: Annotated[int, typer.Option(help="Episodes, a video each.")] = 1,
    sim_steps: Annotated[
        int | None, typer.Option("--sim-steps", "-T", help="Steps per decision.")
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Steps of an episode to film; a frame takes 1 MB until it is over.")
    ] = 500,
    spikes: Annotated[
        bool, typer.Option("--spikes", help="Save spikes, potentials and values as .npz too.")
    ] = False,
    last: Annotated[int, typer.Option(help="Decisions of an episode in that file.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the first episode, and of chance.")] = 0,
    as_json: Json = False,
) -> None:
    """Write videos of an agent acting, with a raster of its spikes beside the frame."""
    from spikerl import backends
    from spikerl.agent import SpikingAgent
    from spikerl.errors import checked_seed, checked_whole
    from spikerl.hardware import HardwarePolicy

    # what can be known is refused before the work begins
    problems = checked_whole("episodes", episodes) + checked_whole("last", last)
    problems += checked_whole("steps", steps) + checked_seed(seed)
    problems += [] if sim_steps is None else checked_whole("sim_steps", sim_steps)
    problems += problems_of(lambda: _refuse_missing(), lambda: backends.ready(backend))
    refuse("this cannot be watched", problems)
    spiking = SpikingAgent.load(agent)
    make = _maker(spiking, agent, env)
    played = []
    with (
        HardwarePolicy(
            spiking, backend, seed=seed, sim_steps=sim_steps, record_spikes=True
        ) as policy,
        progress_bar("episodes", episodes, as_json) as progress,
    ):
        for number in range(seed, seed + episodes):
            name = output / f"{agent.stem}-seed-{number}"
            played.append(_filmed(make, policy, name, number, steps, last if spikes else None))
            if progress is not None:
                progress(len(played))
        steps_each = policy.sim_steps
    if as_json:
        print_json({"backend": backend, "sim_steps": steps_each, "episodes": played})
        return
    for entry in played:
        over = "" if entry["ended"] != "unfinished" else ", stopped there"
        told = f"return {entry['return']:g} in {entry['length']} steps{over}"
        out.print(f"{entry['video']}: {told}", highlight=False, markup=False, soft_wrap=True)
        if entry["spikes"] is not None:
            out.print(str(entry["spikes"]), highlight=False, markup=False, soft_wrap=True)


def _refuse_missing() -> None:
    """Raise SpikerlError with all that is not installed, before the work begins."""
    from importlib.util import find_spec

    missing = [name for name in ("moviepy", "matplotlib") if find_spec(name) is None]
    if missing:
        raise SpikerlError(
            f"videos need {' and '.join(missing)}; install it: pip install 'spikerl[video]'"
        )


def _maker(agent: Any, path: Path, env_id: str | None) -> Callable[[], Any]:
    """What makes the agent's environment, with frames; raises SpikerlError where it cannot."""
    import gymnasium as gym

    import spikerl.envs  # noqa: F401 - registers its names

    name = env_id or agent.provenance.get("environment")
    if not isinstance(name, str):
        raise SpikerlError(f"{path} does not say which environment it is for; pass --env")
    try:
        plain = gym.make(name)
    except (gym.error.Error, ImportError) as error:
        raise SpikerlError(f"{name} cannot be made ({error}); pass another --env") from None
    with plain:
        problems = []
        try:
            agent.preprocessing.batched(plain.observation_space.sample())
        except SpikerlError as error:
            problems.append(str(error))
        if plain.action_space != agent.action_space:
            problems.append(f"actions are {plain.action_space}, the agent's {agent.action_space}")
        modes = plain.metadata.get("render_modes", [])
        if "rgb_array" not in modes:
            has = ", ".join(map(str, modes)) or "none"
            problems.append(f"it draws no frames: render modes are {has}, wanted rgb_array")
    if problems:
        raise SpikerlError(listed(f"{path} cannot be watched in {name}", problems))
    # pygame would greet on stdout, and look for a screen that frames do not need
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    with gym.make(name, render_mode="rgb_array") as drawn:
        try:
            drawn.reset(seed=0)
            drawn.render()
        except gym.error.DependencyNotInstalled as error:
            raise SpikerlError(f"{name} cannot be drawn: {error}") from None
    return lambda: gym.make(name, render_mode="rgb_array")


def _filmed(
    make: Callable[[], Any], policy: Any, name: Path, seed: int, steps: int, last: int | None
) -> dict[str, Any]:
    """One episode of at most so many steps; its video takes its place when it is whole."""
    from gymnasium.wrappers import RecordVideo

    from spikerl.wrappers import RecordSpikes

    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        hidden = tempfile.TemporaryDirectory(dir=name.parent, prefix=".watch-")
    except OSError as error:
        raise SpikerlError(f"{name.parent} cannot be written: {error.strerror}") from None
    with hidden as folder:
        recorder = RecordSpikes(make(), policy, last=last or 10)  # a raster shows no more
        videos = os.path.join(folder, "videos")
        env = RecordVideo(recorder, videos, episode_trigger=lambda _: True, disable_logger=True)
        with env:
            observation, _ = env.reset(seed=seed)
            state, over, length = None, False, 0
            while not over and length < steps:
                action, state = policy.predict(observation, state)
                observation, _, terminated, truncated, _ = env.step(action)
                over, length = terminated or truncated, length + 1
        (video,) = Path(videos).glob("*.mp4")
        os.replace(video, f"{name}.mp4")
    about = recorder.episode.about
    spikes = None
    if last is not None:
        spikes = f"{name}.npz"
        recorder.episode.save(spikes)
    return {
        "video": f"{name}.mp4",
        "spikes": spikes,
        "seed": seed,
        "return": about.total_reward,
        "length": length,
        "ended": about.ended,
    }
