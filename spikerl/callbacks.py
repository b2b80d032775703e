"""ConversionCallback: a policy in training becomes a spiking agent, at the end or again and again.

Imports torch and SB3. Training goes on as if it were not there: the training environment is never
stepped, and chance and the policy's modes are put back as they were.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from spikerl import backends
from spikerl.agent import SpikingAgent
from spikerl.backends.base import Backend
from spikerl.conversion import check_arguments, convert
from spikerl.conversion.environments import made_again, made_from, maker, todays_id
from spikerl.errors import ConversionError, ConversionWarning, checked_whole
from spikerl.evaluation import evaluate
from spikerl.hardware import HardwarePolicy
from spikerl.operations import Tally

WHEN = ("end", "eval")
Maker = Callable[[], gym.Env[Any, Any]]


@dataclass(frozen=True, eq=False)
class Conversion:
    """One conversion: after how many time steps, what was logged, and the agent.

    figures: by the logger's keys without "spiking/": agreement (or action_error in %), return,
             rate (spikes per neuron and step), synaptic_operations (per decision).
    """

    timesteps: int
    figures: Mapping[str, float]
    agent: SpikingAgent

    @property
    def merit(self) -> tuple[float, float]:
        """What the best is chosen by: the return, and between equal ones faithfulness."""
        faithful = self.figures.get("agreement", -self.figures.get("action_error", np.inf))
        return self.figures.get("return", -np.inf), faithful


class ConversionCallback(BaseCallback):
    """Converts the policy in training, tries it on a back end, logs and saves what came out.

    when:     "end" converts after training; "eval" at every call of the callback that holds this
              one, such as EvalCallback(callback_after_eval=...) or callback_on_new_best=, and needs
              such a one. None: "eval" where there is one, else "end".
    every:    without such a one: convert each time this many time steps have passed, too.
    path:     a folder for best.spk (by return, then faithfulness) and last.spk; None saves nothing.
    backend:  where the agent plays; backend_options: keywords of HardwarePolicy, such as
              {"isolation": "process"}.
    episodes: how many it plays, on the seeds seed, seed + 1, ...
    env:      where observations are collected and episodes played: an id, a function that makes
              one, an environment or a VecEnv. None: a copy of the evaluation's environment, else of
              the one in training. Where no copy can be made, the evaluation's own is stepped; else
              only the replay buffer is left, and no return is known.
    rules:    convert()'s keywords (sim_steps, readout, ...); they are checked at once.

    Logs spiking/agreement (or spiking/action_error, % of the range) on held-out observations,
    spiking/return, spiking/rate and spiking/synaptic_operations. A conversion that fails is a
    warning and adds to spiking/failures; training goes on.

    best, last: the Conversions, or None; failures: (time steps, reason) of each.
    Raises ConversionError for arguments that cannot be used, before training.
    """

    def __init__(
        self,
        when: str | None = None,
        every: int | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        backend: str | Backend = "cpu",
        backend_options: Mapping[str, Any] | None = None,
        episodes: int = 5,
        env: Any = None,
        seed: int = 0,
        verbose: int = 0,
        **rules: Any,
    ) -> None:
        super().__init__(verbose)
        problems = checked_whole("episodes", episodes)
        if every is not None:
            problems += checked_whole("every", every)
        if when not in (None, *WHEN):
            problems.append(f"when is {when!r}, wanted one of {', '.join(WHEN)}")
        if when == "eval" and every is not None:
            problems.append("every= is for a callback that no other one holds, when='eval' not")
        if not (env is None or isinstance(env, (str, gym.Env, VecEnv)) or callable(env)):
            problems.append(
                f"env is {env!r}, wanted an id, a function that makes an environment, an "
                "environment or a VecEnv"
            )
        if problems:
            raise ConversionError("these arguments cannot be used", problems)
        check_arguments(seed=seed, **rules)
        if isinstance(env, str):
            todays_id(env)  # raises where there is no such environment
        if isinstance(backend, str):
            # what is unknown or not usable here is refused now; options may name a board
            (backends.get if backend_options else backends.ready)(backend)
        self.when, self.every = when, every
        self.path = None if path is None else Path(path)
        self.backend, self.backend_options = backend, dict(backend_options or {})
        self.episodes, self.env, self.seed, self.rules = episodes, env, seed, rules
        self.best: Conversion | None = None
        self.last: Conversion | None = None
        self.failures: list[tuple[int, str]] = []
        self._ended = False
        self._reached = 0  # time steps `every` counts from

    def _init_callback(self) -> None:
        held = self.parent is not None
        if self.when == "eval" and not held:
            raise ConversionError(
                "when='eval', but no callback holds this one: pass it to EvalCallback as "
                "callback_after_eval= or callback_on_new_best=, or use every="
            )
        if held and (self.when == "end" or self.every is not None):
            raise ConversionError(
                f"{type(self.parent).__name__} does not tell the callback it holds when training "
                "ends, and says itself when to convert: leave when= and every= out, or pass this "
                "callback to learn()"
            )

    def _on_training_start(self) -> None:
        self._ended, self._reached = False, self.num_timesteps

    def _on_step(self) -> bool:
        due = self.every is not None and self.num_timesteps - self._reached >= self.every
        if self.parent is not None or due:
            self._reached = self.num_timesteps
            self._try()
        return True

    def _on_training_end(self) -> None:
        # rl-zoo tells its first callback twice, and even when the model could not be made.
        if getattr(self, "model", None) is not None and not self._ended:
            self._ended = True
            self.num_timesteps = self.model.num_timesteps
            self._try()

    def _try(self) -> None:
        """Convert now, whatever happens."""
        try:
            with _undisturbed(self.model), warnings.catch_warnings():
                warnings.simplefilter("ignore", ConversionWarning)  # the report repeats them
                found = self._convert()
                self._keep(found)
        except Exception as error:  # hours of training are worth more than any conversion
            self._failed(error)
        else:
            for name, value in found.figures.items():
                self.logger.record(f"spiking/{name}", value)
            if self.verbose:
                shown = ", ".join(f"{name} {value:.4g}" for name, value in found.figures.items())
                print(f"Spiking agent at {self.num_timesteps} time steps: {shown}")
        # As EvalCallback does: nothing else may be written after this, at the end of training.
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    def _convert(self) -> Conversion:
        place = self._place()
        rules = dict(self.rules)
        if rules.get("observations") is None:
            # Without a place convert() looks for one as well, and says why there is none.
            buffer = getattr(self.model, "replay_buffer", None)
            filled = buffer is not None and buffer.size() > 0
            rules["observations"] = buffer if place is None and filled else None
        watched = place if rules["observations"] is None else None
        agent = convert(self.model, env=watched, seed=self.seed, **rules)
        report = agent.report
        assert report is not None  # convert() always measures
        name = "agreement" if report.agreement is not None else "action_error"
        figures = {name: report.faithfulness.value}
        if place is not None:
            figures |= self._played(agent, place)
        return Conversion(self.num_timesteps, figures, agent)

    def _place(self) -> Maker | VecEnv | None:
        """Where to act: something that makes environments, or else a VecEnv that may be stepped."""
        if isinstance(self.env, str):
            return maker(todays_id(self.env), {}, ())
        if isinstance(self.env, gym.Env):
            given = self.env
            return DummyVecEnv([lambda: given])
        if isinstance(self.env, VecEnv):
            return _raw(self.env)
        if self.env is not None:
            return self.env  # type: ignore[no-any-return]
        theirs: VecEnv | None = getattr(self.parent, "eval_env", None)
        around = self.model.get_env() if theirs is None else theirs
        spec = made_from(around)
        if spec is not None:
            try:
                make = made_again(spec, around)
                make().close()
                return make
            except ConversionError:
                pass
        return None if theirs is None else _raw(theirs)

    def _played(self, agent: SpikingAgent, place: Maker | VecEnv) -> dict[str, float]:
        """Episodes on the back end: mean return, rate and synaptic operations."""
        n_envs = place.num_envs if isinstance(place, VecEnv) else 1
        with HardwarePolicy(
            agent, self.backend, n_envs=n_envs, seed=self.seed, **self.backend_options
        ) as policy:
            if isinstance(place, VecEnv):
                watched = _Watched(policy)
                place.seed(self.seed)
                returns, _ = evaluate_policy(
                    watched, place, self.episodes, return_episode_rewards=True, warn=False
                )
                rates = watched.tally.rates
                operations = watched.tally.synaptic_operations(agent.network)
            else:
                result = evaluate(policy, place, episodes=self.episodes, seed=self.seed)
                returns, rates = list(result.spiking.returns), result.rates
                operations = result.synaptic_operations
        sizes = [layer.n_out for layer in agent.network.spiking_layers]
        return {
            "return": float(np.mean(returns)),
            "rate": float(np.dot(rates, sizes)) / max(1, sum(sizes)),
            "synaptic_operations": operations,
        }

    def _keep(self, found: Conversion) -> None:
        better = self.best is None or found.merit >= self.best.merit
        if self.path is not None:
            self.path.mkdir(parents=True, exist_ok=True)
            found.agent.save(self.path / "last.spk")
            if better:
                found.agent.save(self.path / "best.spk")
        self.last = found
        if better:
            self.best = found

    def _failed(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        self.failures.append((self.num_timesteps, reason))
        self.logger.record("spiking/failures", len(self.failures))
        text = f"the conversion at {self.num_timesteps} time steps failed: {reason}"
        self.logger.warn(text)
        with suppress(ConversionWarning):  # an error by the user's filters must not end it either
            warnings.warn(text, ConversionWarning, stacklevel=2)


class _Watched:
    """A policy whose spikes are counted as it acts."""

    def __init__(self, policy: HardwarePolicy) -> None:
        self.policy, self.tally = policy, Tally()

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        answer = self.policy.predict(observation, state, episode_start, deterministic)
        assert self.policy.recording is not None  # it has just decided
        self.tally.add(self.policy.recording)
        return answer


def _raw(env: VecEnv) -> VecEnv:
    """The same without VecNormalize: the agent normalises by itself."""
    return env.venv if isinstance(env, VecNormalize) else env


@contextmanager
def _undisturbed(model: BaseAlgorithm) -> Iterator[None]:
    """Global generators and the policy's modes are afterwards what they were before."""
    numbers, numpy_numbers = random.getstate(), np.random.get_state()
    torch_numbers = torch.get_rng_state()
    # Asking for them would start CUDA where nobody uses it.
    gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpu_numbers = torch.cuda.get_rng_state_all() if gpu else []
    modes = [(part, part.training) for part in model.policy.modules()]
    try:
        yield
    finally:
        random.setstate(numbers)
        np.random.set_state(numpy_numbers)
        torch.set_rng_state(torch_numbers)
        if gpu:
            torch.cuda.set_rng_state_all(gpu_numbers)
        for part, training in modes:
            part.training = training
