"""Keywords of policies that cannot be: all of them in one error, by what was found and wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from policies import box
from test_policy_algorithms import alone, made

from spikerl import policies
from spikerl.errors import SpikerlError, reasons
from spikerl.nn import SpikingMLP
from spikerl.nn.surrogates import Surrogate

ACTOR_CRITIC = policies.SpikingActorCriticPolicy


def refused(kind: type[Any] = ACTOR_CRITIC, **keywords: Any) -> list[str]:
    """The problems of a policy's keywords."""
    arguments = {"net_arch": [4]} if "net_arch" not in keywords and kind is ACTOR_CRITIC else {}
    with pytest.raises(SpikerlError) as error:
        kind(box(3), box(1), lambda _: 1e-3, **arguments, **keywords)
    headline, *problems = str(error.value).split("\n  - ")
    assert headline == f"{kind.__name__} cannot be made so:"
    return problems


def test_every_wrong_keyword_is_in_one_error() -> None:
    found = refused(
        encoder="rate",
        readout="population",
        readout_kwargs={"size": 0},
        neuron="HH",
        neuron_kwargs={"reset": "none", "v_threshold": 0},
        norm="layer",
        sim_steps=0,
        spiking_critic="yes",
        budget={"strength": 1.0},
        target="nets",
        net_arch="small",
        neurons="LIF",
    )
    wanted = [
        "there is no keyword 'neurons'; did you mean 'neuron'?",
        "sim_steps must be a whole number >= 1, found 0",
        "there is no back end 'nets'; these are known:",
        "neuron is 'HH'; there are IF, LIF",
        "v_threshold must be > 0, found 0",
        "reset is 'none'; wanted one of subtract, zero",
        "there is no encoder 'rate'; there are constant, population",
        "there is no norm 'layer'; there are batch, care_bn",
        "size must be a whole number of neurons >= 1, found 0",
        "spiking_critic must be True or False, found 'yes'",
        "neither rate nor operations is limited",
        "net_arch must be a list of widths such as [64, 64], or {'pi': [64, 64], 'vf': [64, 64]}",
    ]
    problems = [text for text in found if not text.startswith("  ")]
    for start, problem in zip(wanted, [p for p in problems if p], strict=True):
        assert problem.startswith(start), problem


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"neuron_kwargs": "LIF"}, "neuron_kwargs must be a mapping of names to values such as"),
        ({"neuron_kwargs": {"slope": "steep"}}, "slope of a surrogate must be > 0, found 'steep'"),
        ({"neuron": ["LIF"]}, "neuron must be a name, found ['LIF']"),
        ({"norm": {}}, "norm must be a name, found {}"),
        ({"target": 3}, "target must be a name, found 3"),
        ({"encoder_kwargs": 10}, "encoder_kwargs must be a mapping"),
        ({"budget": 0.1}, 'budget must be a mapping of names to values such as {"rate": 0.1}'),
        ({"net_arch": [8, 0]}, "net_arch must be a list of widths such as [64, 64], or"),
        ({"net_arch": {"pi": [8], "qf": [8]}}, "net_arch has 'qf'; wanted a list of widths"),
        ({"net_arch": {"pi": [8], "vf": 8}}, "net_arch['vf'] must be a list of whole numbers"),
        ({"simsteps": 4}, "there is no keyword 'simsteps'; did you mean 'sim_steps'?"),
        ({"qqqqqqqq": 4}, "there is no keyword 'qqqqqqqq'; there are action_space,"),
        ({"n_critics": 4}, "there is no keyword 'n_critics'; "),
    ],
)
def test_a_wrong_keyword_is_told_by_what_was_found(keywords: dict[str, Any], message: str) -> None:
    (found,) = refused(**keywords)
    assert message in found


def test_keywords_of_one_policy_are_judged_by_that_policy() -> None:
    (found,) = refused(policies.SpikingDQNPolicy, net_arch={"pi": [4], "vf": [4]})
    assert found.startswith("net_arch must be a list of widths such as [64, 64]; found {'pi'")
    (found,) = refused(policies.SpikingSACPolicy, net_arch={"pi": [4]})
    assert found.startswith("net_arch lacks 'qf'; wanted")
    found, rate = refused(policies.ProxyTD3Policy, proxy_arch="small", proxy_learning_rate=0)
    assert found.startswith("proxy_arch must be a list of whole numbers >= 1 such as [64, 64], f")
    assert rate == "proxy_learning_rate must be a number > 0, found 0"
    (found,) = refused(policies.ProxyTD3Policy, proxi_arch=[4])
    assert found == "there is no keyword 'proxi_arch'; did you mean 'proxy_arch'?"
    (found,) = refused(policies.CommonModeDQNPolicy, common_arch=[0])
    assert found.startswith("common_arch must be")


def test_a_memory_has_its_own_keywords() -> None:
    found = refused(
        policies.SpikingRecurrentPolicy,
        memory_size=0,
        sim_steps=True,
        surrogate="spline",
        net_arch="small",
        shared_lstm=True,
        lstm_hidden_size=9,
        memory=3,
    )
    wanted = [
        "there is no keyword 'memory'; did you mean 'memory_size'?",
        "sim_steps must be a whole number >= 1, found True",
        "memory_size must be a whole number >= 1, found 0",
        "there is no surrogate 'spline'; there are fast_sigmoid",
        "shared_lstm=True has no meaning here",
        "lstm_hidden_size is 9 and memory_size 0",
        "net_arch is 'small': the action is read from the memory itself",
    ]
    for start, problem in zip(wanted, found, strict=True):
        assert problem.startswith(start), problem
    (found,) = refused(policies.SpikingRecurrentPolicy, net_arch={"pi": [], "vf": "small"})
    assert found.startswith("net_arch['vf'] must be a list")
    (found,) = refused(policies.SpikingRecurrentPolicy, surrogate=["arctan"])
    assert found == "surrogate must be a name, found ['arctan']"
    with pytest.raises(SpikerlError, match="lr_schedule must be a function, found None"):
        policies.SpikingRecurrentPolicy(box(3), box(1))


class Wider(ACTOR_CRITIC):  # type: ignore[valid-type,misc]
    """A user's policy with a keyword of its own."""

    def __init__(self, *args: Any, margin: float = 0.0, **keywords: Any) -> None:
        self.margin = margin
        super().__init__(*args, **keywords)


def test_keywords_of_sb3_and_of_a_subclass_are_known() -> None:
    everything = {"log_std_init": -1.0, "optimizer_kwargs": {"eps": 1e-5}}
    found = made(Wider, "PPO", margin=0.5, ortho_init=False, **everything)
    assert found.policy.margin == 0.5
    assert alone(policies.SpikingTQCPolicy, box(1)).sim_steps == 8
    (problem,) = refused(Wider, margins=0.5)
    assert problem == "there is no keyword 'margins'; did you mean 'margin'?"


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Tuple((box(2), box(3))), "Tuple("),
        (spaces.Text(4), "Text("),
        (spaces.Sequence(box(2)), "Sequence("),
        (spaces.Discrete(4, start=2), "Discrete(4, start=2)"),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), "MultiDiscrete("),
        (spaces.Box(-1, 1, ()), "without an axis"),
        (spaces.Dict({"a": box(2), "b": spaces.Dict({"c": box(1)})}), "Dict (entry 'b')"),
        (spaces.Dict({"a": box(2), "b": spaces.Discrete(3, start=1)}), "start=1) (entry 'b')"),
    ],
)
@pytest.mark.parametrize("kind", [ACTOR_CRITIC, policies.SpikingRecurrentPolicy])
def test_observations_that_sb3_cannot_hand_on_are_refused(
    kind: type[Any], space: spaces.Space[Any], said: str
) -> None:
    with pytest.raises(SpikerlError) as error:
        kind(space, box(1), lambda _: 1e-3, sim_steps=0)
    _, steps, problem = str(error.value).split("\n  - ")
    assert "sim_steps" in steps
    assert problem.startswith("the observations are ")
    assert said in problem
    assert "wanted a Box with an axis at least" in problem
    assert "FlattenObservation" in problem


def test_what_images_do_not_have_is_in_one_error_with_all_else() -> None:
    image = spaces.Box(0, 255, (3, 40, 40), np.uint8)
    with pytest.raises(SpikerlError) as error:
        ACTOR_CRITIC(image, box(1), lambda _: 1e-3, net_arch=[8], encoder="population", sim_steps=0)
    starts = ("sim_steps must be", "net_arch is [8]: the outputs are read", "encoder, readout and")
    for start, problem in zip(starts, reasons(error.value), strict=True):
        assert problem.startswith(start), problem


def test_a_critic_of_actions_wants_both_parts_of_net_arch() -> None:
    for given, lacks in (({"qf": [8]}, "pi"), ({"pi": [8]}, "qf")):
        (problem,) = refused(policies.SpikingSACPolicy, net_arch=given)
        assert problem.startswith(f"net_arch lacks {lacks!r}; wanted")


def test_parts_and_surrogates_go_by_their_other_names() -> None:
    for given, kept in (
        ({"encoder": "current"}, {"encoder": "constant"}),
        ({"readout": "potential"}, {"readout": "linear", "readout_kwargs": {}}),
        ({"readout": "rate"}, {"readout": "population", "readout_kwargs": {"size": 1}}),
    ):
        policy = ACTOR_CRITIC(box(3), box(2), lambda _: 1e-3, net_arch=[4], **given)
        told = policy._get_constructor_parameters()
        assert {name: told[name] for name in kept} == kept
        assert policy.predict(np.zeros(3, np.float32))[0].shape == (2,)
    assert Surrogate("superspike") == Surrogate("fast_sigmoid")
    assert Surrogate("piecewise") == Surrogate("rectangle")


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [ACTOR_CRITIC, policies.SpikingRecurrentPolicy])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_an_observation_that_is_no_number_is_refused_as_sb3_does(
    kind: type[Any], odd: float
) -> None:
    policy = kind(box(3), box(2), lambda _: 1e-3)
    with pytest.raises(ValueError, match="nan"):
        policy.predict(np.array([0.0, odd, 0.0], np.float32))


def test_only_the_rows_that_are_no_numbers_are_lost() -> None:
    space = spaces.Box(0, 255, (1, 12, 12), np.uint8)
    image = policies.SpikingNatureCNN(space, 8, kernels=[(4, 4, 2)]).eval()
    for stack, rows in (
        (SpikingMLP(3, [5], sim_steps=4).eval(), torch.rand(300, 3)),
        (image, torch.rand(3, 1, 12, 12)),
    ):
        with torch.no_grad():
            whole = stack(rows)
            rows.flatten(1)[1, 0] = torch.nan
            found = stack(rows)
            large = stack(rows.fill_(3e38))  # a sum of them is infinite, none of them is
        assert torch.isnan(found[1]).all()
        keep = torch.arange(len(rows)) != 1
        assert torch.equal(found[keep], whole[keep])
        assert torch.isfinite(large).all()
