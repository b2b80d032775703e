"""What every spiking policy takes besides SB3's own keywords. Imports torch and SB3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any, ClassVar

from gymnasium import spaces
from torch import nn

from spikerl.errors import SpikerlError, checked_whole, listed
from spikerl.nn.budget import Budget
from spikerl.nn.foreign import neuron_of
from spikerl.nn.rules import keep_rules
from spikerl.nn.stack import SpikingMLP, SpikingStack, initialise
from spikerl.policies.images import SpikingNatureCNN
from spikerl.policies.parts import Parts
from spikerl.policies.refusals import (
    Refusals,
    arch_problems,
    unknown_keywords,
)
from spikerl.policies.seeing import check_extractor, join_entries, sees_images, space_problems
from spikerl.policies.serves import algorithm_of, check_serves
from spikerl.policies.target import network_problems, target_problems, target_rules

INSTEAD = "FlattenExtractor, or SpikingNatureCNN for images"
BARE = (
    "encoder, readout and norm are for vectors: images go through SpikingNatureCNN as they are, "
    "leave them out"
)


class SpikingKeywords:
    """Mixed into a policy of SB3: hidden layers of the actor spike, the outputs are read from them.

    All keywords are plain strings and numbers, so that an rl-zoo file can hold them.

    sim_steps:      T, steps per decision.
    neuron:         "IF", "LIF", "PLIF", "CLIF" or "ALIF", see spikerl.nn.neurons; or
                    SpikingJelly's own, such as "spikingjelly:ParametricLIFNode".
    target:         the name of the back end the agent is trained for: reset, delays and weight
                    bits as it needs them, and a refusal of what it cannot do.
    neuron_kwargs:  the rest of spikerl.nn.Neuron: decay, reset, delay_steps, weight_bits, ...; or
                    what SpikingJelly's constructor takes.
    budget:         the fields of spikerl.nn.budget.Budget, to limit spikes or synaptic operations.
    encoder, encoder_kwargs, readout, readout_kwargs, norm: see spikerl.policies.parts.Parts.
    spiking_critic: the critic spikes too; else it is SB3's own. Where both share a features
                    extractor of images, that one spikes for both.

    Images go through SpikingNatureCNN (under normalize_images=False all observations with three
    axes, as SB3 reads it), Dict observations through SB3's CombinedExtractor without layers of its
    own. Orthogonal initialisation is spikerl's for spiking layers (see
    spikerl.nn.stack.initialise) and SB3's for all others, whatever ortho_init says of the former.
    Raises SpikerlError with every keyword that cannot be; then, as layers are built of them, with
    what those or their target cannot be.
    """

    observation_space: spaces.Space[Any]
    arch_parts: ClassVar[tuple[str, ...]] = ()  # what net_arch may be divided into

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        *args: Any,
        sim_steps: int = 8,
        neuron: str = "IF",
        neuron_kwargs: Mapping[str, Any] | None = None,
        target: str | None = None,
        encoder: str = "constant",
        encoder_kwargs: Mapping[str, Any] | None = None,
        readout: str = "linear",
        readout_kwargs: Mapping[str, Any] | None = None,
        norm: str | None = None,
        spiking_critic: bool = False,
        budget: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        check_serves(self)
        wrong = Refusals(self)
        wrong.problems += unknown_keywords(self, SpikingKeywords, kwargs)
        wrong.problems += checked_whole("sim_steps", sim_steps)
        self.neuron_kwargs = dict(
            wrong.mapping("neuron_kwargs", neuron_kwargs, '{"reset": "zero"}')
        )
        rules = None
        if wrong.name("target", target, optional=True) and target is not None:
            rules = wrong.tried(target_rules, target)
        if rules and ":" not in str(neuron):
            self.neuron_kwargs = {**rules, **self.neuron_kwargs}
        made = None
        if wrong.name("neuron", neuron):
            made = wrong.tried(neuron_of, neuron, self.neuron_kwargs)
        if made is not None and rules is not None:
            wrong.problems += wrong.tried(target_problems, made, target) or []
        names = {"encoder": encoder, "readout": readout, "norm": norm}
        named = [wrong.name(name, value, name == "norm") for name, value in names.items()]
        arguments = [
            wrong.mapping(name, value, '{"size": 10}')
            for name, value in (
                ("encoder_kwargs", encoder_kwargs),
                ("readout_kwargs", readout_kwargs),
            )
        ]
        parts = None
        if all(named):
            parts = wrong.tried(Parts, encoder, arguments[0], readout, arguments[1], norm)
        if not isinstance(spiking_critic, bool):
            wrong.problems.append(f"spiking_critic must be True or False, found {spiking_critic!r}")
        limits = wrong.mapping("budget", budget, '{"rate": 0.1}')
        self.budget = wrong.tried(_budget, limits) if isinstance(budget, Mapping) else None
        if budget is not None and algorithm_of(self) == "TRPO":
            wrong.problems.append(
                "budget adds a gradient to every pass back, and TRPO measures its trust region by "
                "the same passes: it is for PPO, A2C and the off-policy algorithms"
            )
        net_arch = args[2] if len(args) > 2 else kwargs.get("net_arch")
        wrong.problems += arch_problems(net_arch, self.arch_parts)
        wrong.problems += space_problems(observation_space)
        wrong.problems += join_entries(observation_space, kwargs)
        wrong.problems += self._own_problems()
        if sees_images(observation_space, kwargs):
            kwargs["features_extractor_class"] = SpikingNatureCNN
        images = kwargs.get("features_extractor_class") is SpikingNatureCNN
        if images and net_arch:
            wrong.problems.append(
                f"net_arch is {net_arch}: the outputs are read from the last layer of the spiking "
                "CNN; leave it out (features_dim in features_extractor_kwargs sets the width of "
                "that layer)"
            )
        if images and parts is not None and not parts.plain:
            wrong.problems.append(BARE)
        wrong.done()
        assert made is not None
        assert parts is not None
        self.neuron, self.parts, self.sim_steps = made, parts, int(sim_steps)
        self.target = target if rules is not None else None
        self.spiking_critic = spiking_critic
        if images:
            own = {
                "sim_steps": self.sim_steps,
                "neuron": neuron,
                "neuron_kwargs": self.neuron_kwargs,
                "budget": self.budget,
            }
            kwargs["features_extractor_kwargs"] = {
                **(kwargs.get("features_extractor_kwargs") or {}),
                **own,
            }
            kwargs["net_arch"] = []
        super().__init__(observation_space, *args, **kwargs)  # type: ignore[call-arg]
        keep_rules(self)  # type: ignore[arg-type]

    def rules(self) -> dict[str, Any]:
        """What its parameters belong to, besides the neurons: compared where they are loaded."""
        arch: Any = self.net_arch  # type: ignore[attr-defined]
        parts = self.arch_parts or ("all",)
        named = arch if isinstance(arch, Mapping) else dict.fromkeys(parts, arch)
        return {
            "net_arch": {part: [int(n) for n in named.get(part, ())] for part in parts},
            "spiking_critic": self.spiking_critic,
            **{name: getattr(self.parts, name) for name in ("encoder", "readout", "norm")},
        }

    def _own_problems(self) -> list[str]:
        """What is wrong with the keywords that only a subclass has."""
        return []

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data: dict[str, Any] = super()._get_constructor_parameters()  # type: ignore[misc]
        return data | {
            "sim_steps": self.sim_steps,
            "neuron": self.neuron.kind,
            "neuron_kwargs": self.neuron_kwargs,
            **asdict(self.parts),
            "spiking_critic": self.spiking_critic,
            "budget": None if self.budget is None else asdict(self.budget),
            **_shared(self),
        }

    def _acting(
        self, n_in: int, widths: Sequence[int], extractor: Any, n_values: int
    ) -> nn.Sequential:
        """The spiking layers of what acts: hidden ones, with encoder, norm and population.

        Raises SpikerlError with every reason why the target cannot hold them.
        """
        made = self._acting_layers(n_in, widths, extractor, n_values)
        whole: Any = extractor if isinstance(extractor, SpikingNatureCNN) else made
        if self.target is not None:
            problems = [
                problem
                for stack in stacks(whole)
                for problem in network_problems(stack, n_values, self.target)
            ]
            if problems:
                raise SpikerlError(listed(f"{type(self).__name__} cannot be made so", problems))
        return made

    def _acting_layers(
        self, n_in: int, widths: Sequence[int], extractor: Any, n_values: int
    ) -> nn.Sequential:
        if self.parts.plain:
            return self._spiking(n_in, widths, extractor)
        if isinstance(extractor, SpikingNatureCNN):
            raise SpikerlError(BARE)
        check_extractor(extractor, INSTEAD)
        return nn.Sequential(
            self.parts.stack(n_in, list(widths), n_values, self.sim_steps, self.neuron, self.budget)
        )

    def _read_out(self, last: nn.Linear) -> nn.Module:
        """What reads the values from the last spiking layer, in the place of SB3's last layer."""
        return self.parts.read_out(last.out_features) or last

    def _spiking(
        self, n_in: int, widths: Sequence[int], extractor: Any = None, deployed: bool = True
    ) -> nn.Sequential:
        """Spiking hidden layers, or none behind an extractor that spikes itself.

        deployed: False for critics, which run on no chip and need not save spikes.
        """
        if isinstance(extractor, SpikingNatureCNN):
            return nn.Sequential()
        check_extractor(extractor, INSTEAD)
        return nn.Sequential(
            SpikingMLP(
                n_in,
                widths,
                sim_steps=self.sim_steps,
                neuron=self.neuron if deployed else replace(self.neuron, mismatch=0.0),
                budget=self.budget if deployed else None,
            )
        )

    def set_training_mode(self, mode: bool) -> None:
        """SB3's; a rollout begins when training mode is left, and draws another chip.

        The losses behind that rollout are computed on the chip. So are the decisions of the rollout
        itself in PPO, A2C and TRPO; all other algorithms make theirs through predict().
        """
        module: Any = self
        if module.training and not mode:
            for stack in stacks(module):
                if stack.exact:  # a target network never acts
                    stack.draw()
        super().set_training_mode(mode)  # type: ignore[misc]

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """SB3's; by the network as designed, without the mismatch of a chip."""
        module: Any = self
        module.set_training_mode(False)  # which SB3 does as well, too late to leave the chip out
        with ExitStack() as designed:
            for stack in stacks(module):
                designed.enter_context(stack.as_designed())
            return super().predict(*args, **kwargs)  # type: ignore[misc]


def stacks(module: nn.Module) -> Iterator[SpikingStack]:
    """The spiking stacks within a module."""
    return (part for part in module.modules() if isinstance(part, SpikingStack))


def initialise_stacks(module: nn.Module) -> None:
    """Weights of spiking layers as they should start, after SB3 has been over all layers."""
    for stack in stacks(module):
        initialise(stack)


def judge_in_batches(module: nn.Module) -> None:
    """A target network never acts: its stacks work as in training, faster for large batches."""
    for stack in stacks(module):
        stack.exact = False


def _shared(policy: Any) -> dict[str, bool]:
    """Which features extractors there are: SB3 keeps it for TD3 alone."""
    name = "share_features_extractor"
    return {name: getattr(policy, name)} if hasattr(policy, name) else {}


def _budget(rules: Mapping[str, Any]) -> Budget:
    try:
        return Budget(**rules)
    except TypeError as error:
        known = ", ".join(Budget.__dataclass_fields__)
        raise SpikerlError(f"budget: {error}; there are {known}") from None
