"""A spiking actor with a memory, for sb3-contrib's RecurrentPPO. Imports torch and sb3-contrib."""

from __future__ import annotations

from typing import Any

import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from spikerl.errors import checked_whole
from spikerl.nn.memory import SpikingMemory
from spikerl.nn.rules import keep_rules
from spikerl.nn.surrogates import Surrogate
from spikerl.policies.refusals import (
    Refusals,
    arch_problems,
    unknown_keywords,
)
from spikerl.policies.seeing import check_extractor, join_entries, sees_images, space_problems
from spikerl.policies.serves import check_serves


class SpikingRecurrentPolicy(RecurrentActorCriticPolicy):
    """sb3-contrib's recurrent policy with a spiking memory where the actor has its LSTM.

    Membranes and spikes are the state that RecurrentPPO carries from step to step and forgets at
    episode starts; the critic keeps its LSTM, which is not deployed. The action is read from the
    spikes of the memory, so net_arch has no layers for the actor. Vectors and Dict observations of
    vectors are understood; the latter go through SB3's CombinedExtractor.

    sim_steps:   T, steps per decision.  memory_size: neurons.
    surrogate, slope: of the gradient, see spikerl.nn.surrogates.
    Raises SpikerlError with every keyword that cannot be, and for observations that are images.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Any = None,  # which an algorithm that this is not for may leave out
        net_arch: Any = None,
        *args: Any,
        sim_steps: int = 4,
        memory_size: int = 64,
        surrogate: str = "fast_sigmoid",
        slope: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_serves(self)
        wrong = Refusals(self)
        wrong.problems += unknown_keywords(self, SpikingRecurrentPolicy, kwargs)
        wrong.problems += checked_whole("sim_steps", sim_steps)
        wrong.problems += checked_whole("memory_size", memory_size)
        named = wrong.name("surrogate", surrogate)
        rule = wrong.tried(Surrogate, surrogate, slope) if named else None
        if not callable(lr_schedule):
            wrong.problems.append(f"lr_schedule must be a function, found {lr_schedule!r}")
        if kwargs.pop("shared_lstm", False):
            wrong.problems.append("shared_lstm=True has no meaning here: only the actor spikes")
        if kwargs.get("lstm_hidden_size", memory_size) != memory_size:
            wrong.problems.append(
                f"lstm_hidden_size is {kwargs['lstm_hidden_size']!r} and memory_size "
                f"{memory_size!r}: both are the size of the memory; leave the first one out"
            )
        if kwargs.get("n_lstm_layers", 1) != 1:
            wrong.problems.append(
                f"n_lstm_layers is {kwargs['n_lstm_layers']!r}: the memory is one layer of "
                "neurons; leave it out (memory_size is the width of that layer)"
            )
        wrong.problems += space_problems(observation_space)
        wrong.problems += join_entries(observation_space, kwargs)
        if sees_images(observation_space, kwargs):
            wrong.problems.append(
                f"the observations are images of shape {observation_space.shape}, found no layers "
                "that see them: a memory takes vectors and Dict observations of vectors; pass "
                "features_extractor_class=FlattenExtractor to have pixels as a vector"
            )
        arch = {"pi": [], "vf": [64]} if net_arch is None else net_arch
        if not isinstance(arch, dict) or arch.get("pi"):
            wrong.problems.append(
                f"net_arch is {net_arch!r}: the action is read from the memory itself; wanted "
                'something like {"pi": [], "vf": [64]}'
            )
        else:
            wrong.problems += arch_problems(arch, ("pi", "vf"))
        wrong.done()
        assert rule is not None
        sim_steps, memory_size = int(sim_steps), int(memory_size)
        self.spiking_kwargs = {
            "sim_steps": sim_steps,
            "memory_size": memory_size,
            "surrogate": surrogate,
            "slope": slope,
        }
        kwargs["lstm_hidden_size"] = memory_size
        super().__init__(observation_space, action_space, lr_schedule, arch, *args, **kwargs)
        check_extractor(self.features_extractor, "FlattenExtractor, a memory is for vectors")
        memory = SpikingMemory(self.features_dim, memory_size, sim_steps, rule)
        self.lstm_actor = memory.to(self.device)  # type: ignore[assignment]
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),
            **self.optimizer_kwargs,  # type: ignore[call-arg]
        )
        keep_rules(self)

    def rules(self) -> dict[str, Any]:
        """What its parameters belong to, besides the memory: compared where they are loaded."""
        arch: Any = self.net_arch
        return {"net_arch": {"vf": [int(n) for n in arch.get("vf", [])]}}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.spiking_kwargs

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """SB3's, with a width that an LSTM takes: over MultiDiscrete it is NumPy's integer."""
        found = super().make_features_extractor()
        found._features_dim = int(found.features_dim)
        return found

    @staticmethod
    def _process_sequence(  # type: ignore[override]  # its own hint forgets that the state is a pair
        features: Tensor,
        lstm_states: tuple[Tensor, Tensor],
        episode_starts: Tensor,
        lstm: nn.Module,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if not isinstance(lstm, SpikingMemory):
            found: Any = RecurrentActorCriticPolicy._process_sequence(
                features,
                lstm_states,
                episode_starts,
                lstm,  # type: ignore[arg-type]
            )
            output, states = found
            return output, states
        n_seq = lstm_states[0].shape[1]
        # padded batch -> [L, n_seq, n], as the LSTM takes it
        sequence = features.reshape((n_seq, -1, lstm.input_size)).swapaxes(0, 1)
        starts = episode_starts.reshape((n_seq, -1)).swapaxes(0, 1)
        rates, state = lstm(sequence, lstm_states, starts)
        return torch.flatten(rates.transpose(0, 1), start_dim=0, end_dim=1), state
