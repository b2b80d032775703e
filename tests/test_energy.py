"""Estimates of energy: prices of a publication times what was counted, and what is missing."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import pytest
from policies import model
from small_agents import observations, pole

import spikerl
from spikerl.energy import HARDWARE, PARTS, cost, estimate, nano, original_macs
from spikerl.errors import SpikerlError
from spikerl.evaluation import evaluate
from spikerl.hardware import HardwarePolicy
from spikerl.operations import Operations, Tally, operations

COUNTED = Operations(
    dense=5000.0,
    effective_macs=300.0,
    effective_acs=1000.0,
    input_macs=100.0,
    updates=40.0,
    leaks=10.0,
    spikes=20.0,
)


def test_digital_arithmetic_has_a_price_for_everything() -> None:
    found = estimate(COUNTED, "cmos45-float32", original_macs=200)
    # multiplication 3.7 pJ, addition 0.9 pJ; constant input is multiplied once
    parts = {
        "input": 100 * (3.7 + 0.9),
        "synapses": 1000 * 0.9,
        "neurons": 40 * 2 * 0.9 + 10 * 3.7,
        "spikes": 20 * 0.9,
    }
    assert found.parts == {part: pytest.approx(pj / 1000) for part, pj in parts.items()}
    assert found.value == pytest.approx(sum(parts.values()) / 1000)
    assert found.original == pytest.approx(0.2 * 4.6)
    assert found.left_out == ()


def test_what_a_chip_has_no_price_for_is_said() -> None:
    loihi = estimate(COUNTED, "loihi", original_macs=200)
    assert loihi.value == pytest.approx((1000 * 23.6 + 40 * 81 + 20 * 1.7) / 1000)
    assert (loihi.left_out, loihi.parts["input"], loihi.original) == (("input",), None, None)
    odin = estimate(COUNTED, "odin")
    assert odin.value == pytest.approx(12.7)
    assert odin.left_out == ("input", "neurons", "spikes")
    assert "estimate" in str(odin)
    assert "Frenkel" in str(odin)
    assert str(odin).endswith("without input, neurons, spikes")
    # nothing is missing where there is nothing of it
    silent = replace(COUNTED, input_macs=0.0, spikes=0.0)
    assert estimate(silent, "odin").left_out == ("neurons",)


def test_energies_are_shown_in_a_unit_that_fits() -> None:
    assert str(estimate(COUNTED, "odin")).startswith("12.7 nJ (")
    assert str(estimate(COUNTED, "spinnaker")).startswith("47 µJ (")
    assert [nano(x) for x in (0.1, 999.4, 999.6, 2e6, 3e9)] == [
        *("0.1 nJ", "999 nJ", "1 µJ", "2 mJ", "3 J")
    ]


@pytest.mark.parametrize("name", HARDWARE)
def test_every_entry_is_sound_and_says_where_it_is_from(name: str) -> None:
    entry = HARDWARE[name]
    assert entry.name == name
    assert entry.kind in ("digital", "chip")
    assert entry.source
    assert 2000 < entry.year < 2100
    assert entry.note
    assert entry.ac > 0
    assert (entry.mac is not None) == (entry.kind == "digital")
    assert all(price is None or price >= 0 for price in (entry.update, entry.spike, entry.leak))
    found = estimate(COUNTED, name, original_macs=100)
    assert tuple(found.parts) == PARTS
    assert (found.original is not None) == (entry.kind == "digital")


def test_unknown_hardware_is_refused_by_name() -> None:
    with pytest.raises(SpikerlError, match=r"no energies of 'abacus' are known.*loihi"):
        estimate(COUNTED, "abacus")


def test_an_evaluation_counts_every_decision_it_made() -> None:
    source = model("dqn")
    agent = spikerl.convert(source, n_calibration=300, sim_steps=8)
    with HardwarePolicy(agent, seed=0) as policy:
        result = evaluate(policy, lambda: gym.make("CartPole-v1"), episodes=2, seed=5)
        tally = Tally()
        for seed in (5, 6):
            env = gym.make("CartPole-v1")
            observation, _ = env.reset(seed=seed)
            over = False
            while not over:
                action, _ = policy.predict(observation)
                tally.add(policy.recording, policy.drive)
                observation, _, terminated, truncated, _ = env.step(action)
                over = terminated or truncated
    assert result.cost == cost(agent, tally)
    assert result.cost.operations.effective_acs == result.synaptic_operations > 0
    layers = [part for part in source.q_net.q_net if hasattr(part, "weight")]
    macs = sum(layer.weight.numel() for layer in layers)
    assert result.cost.original_macs == macs
    assert result.cost.on("cmos45-int32").original == pytest.approx(macs * 3.2 / 1000)
    assert 0 < result.spiking.latency_ms <= result.spiking.slow_ms


def test_an_agent_of_unknown_origin_has_no_original_to_compare_with() -> None:
    agent = replace(pole(), provenance={})
    tally = Tally()
    with HardwarePolicy(agent, "reference", n_envs=4) as policy:
        policy.predict(observations(agent, 4))
        tally.add(policy.recording, policy.drive)
        counted = operations(policy.recording, agent.network, policy.drive)
    found = cost(agent, tally)
    assert found.operations == counted
    assert found.original_macs is None
    assert [entry.original for entry in found.energy] == [None] * len(HARDWARE)
    assert original_macs({"source": {"macs": "many"}}) is None
    rounded = replace(agent, provenance={"recipe": {"weight_bits": 8}})
    weights = sum(layer.weight.size for layer in agent.network.neuron_layers)
    assert found.footprint - cost(rounded, tally).footprint == 3 * weights
    assert original_macs({"source": None}) is None
