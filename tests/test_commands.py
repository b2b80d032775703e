"""The command line, as a person and as a machine use it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from policies import model
from processes import run_python

import spikerl
from spikerl.cli import evaluate as command
from spikerl.evaluation import evaluate

ROOT = Path(__file__).parent.parent
AGENT = ROOT / "zoo" / "agents" / "dqn" / "CartPole-v1_1"


def run(*arguments: Any, columns: int = 120) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "spikerl", *arguments, env={"COLUMNS": str(columns)})


def test_convert_saves_an_agent_that_acts(tmp_path: Path) -> None:
    target = tmp_path / "agent.spk"
    done = run("convert", AGENT, "-o", target, "-T", 16, "--n-calibration", 500)
    assert done.returncode == 0, done.stderr
    assert "spiking network 4-64-64-2" in done.stdout
    assert "agreement at T = 16" in done.stdout
    with spikerl.HardwarePolicy(target) as policy:
        assert policy.predict(np.zeros(4, np.float32))[0] in (0, 1)


def test_convert_prints_one_json_document() -> None:
    done = run("convert", AGENT, "--n-calibration", 500, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert 0 < report["agreement"]["low"] <= report["agreement"]["value"] <= 1


def test_convert_writes_its_report_as_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ("--n-calibration", 500, "--report", page, "--episodes", 2)
    done = run("convert", AGENT, "-T", 16, *options)
    assert done.returncode == 0, done.stderr
    assert f"page: {page}" in done.stdout
    text = page.read_text("utf-8")
    assert "<h1>dqn CartPole-v1</h1>" in text
    assert "2 episodes each, seeds 0 to 1" in text
    machine = run("convert", AGENT, "-T", 16, *options, "--json")
    assert json.loads(machine.stdout)["page"] == str(page)
    assert json.loads(machine.stdout)["saved"] is None


def test_convert_distils_what_it_converted(tmp_path: Path) -> None:
    path = tmp_path / "agent.spk"
    done = run("convert", AGENT, "-T", 4, "--distill", "--distill-updates", 50, "-o", path)
    assert done.returncode == 0, done.stderr
    assert "before distillation: agreement at T = 4" in done.stderr
    assert spikerl.SpikingAgent.load(path).provenance["distillation"]["updates"] == 50


def test_evaluate_shows_both_policies_on_the_same_seeds() -> None:
    done = run("evaluate", AGENT, "--episodes", 2, "-T", 16)
    assert done.returncode == 0, done.stderr
    assert "original (dqn)" in done.stdout
    assert "spiking (cpu, T=16)" in done.stdout
    assert "agreement on the states visited" in done.stdout
    assert "return of spiking less original, seed by seed: " in done.stdout
    assert re.search(r"^synaptic operations per decision: [1-9][\d,]*$", done.stdout, re.M)


def test_evaluate_converts_for_a_back_end_that_refuses_the_usual_network() -> None:
    pytest.importorskip("xylosim", reason="xylosim is not installed")
    done = run("evaluate", AGENT, "--episodes", 1, "-T", 24, "--backend", "xylo")
    assert done.returncode == 0, done.stderr
    assert "spiking (xylo, T=24)" in done.stdout
    assert "agreement on the states visited" in done.stdout


def test_evaluate_prints_one_json_document(tmp_path: Path) -> None:
    done = run("evaluate", AGENT, "--episodes", 2, "--seed", 5, "--backend", "torch", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["seeds"] == [5, 6]
    assert result["backend"] == "torch"
    assert result["original"]["returns"] == [500.0, 500.0]


def test_evaluate_says_what_the_conversion_warned_of() -> None:
    done = run("evaluate", AGENT, "--episodes", 1, "-T", 4, "--json")
    assert done.returncode == 0, done.stderr
    assert "note: the network is too coarse for its action gaps" in done.stderr
    result = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(word))
    assert result["spiking"]["mean_return"]["low"] is None  # one episode has no interval


def test_backends_are_listed_with_what_they_can_do() -> None:
    table, machine = run("backends"), run("backends", "--json")
    for name in ("cpu", "reference", "torch"):
        assert name in table.stdout
        assert json.loads(machine.stdout)[name]["usable"]
    assert json.loads(machine.stdout)["cpu"]["capabilities"]["exactness"] == "potentials"


def test_a_narrow_terminal_shows_all_that_back_ends_can_do() -> None:
    shown = run("backends", columns=80).stdout
    assert "…" not in shown
    assert "nest:iaf_psc_delta" in shown
    assert "potentials" in shown


def test_bench_prints_ratios() -> None:
    done = run("bench", "--net", "4-8-2", "--seconds", 0.1, "--backend", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {row["backend"] for row in rows} >= {"cpu", "sb3 predict", "torch loop"}
    assert all(row["ratio_to_sb3"] > 0 for row in rows)
    assert "x SB3" in run("bench", "--net", "4-8-2", "--seconds", 0.1, "--backend", "cpu").stdout


def odd_agent(folder: Path) -> Path:
    import stable_baselines3 as sb3
    from torch.nn import LogSigmoid

    file = folder / "odd.zip"
    options = {"policy_kwargs": {"activation_fn": LogSigmoid}, "device": "cpu"}
    sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, **options).save(file)
    return file


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", AGENT, "--backend", "abacus"), "there is no back end 'abacus'"),
        (("convert", "nowhere"), "there is no file or directory nowhere"),
        (("convert", AGENT, "-T", 0), "sim_steps must be a whole number >= 1"),
        (("convert", "ODD"), "mlp_extractor.policy_net.1: LogSigmoid is not supported"),
        (("evaluate", AGENT, "--agent", ROOT / "LICENSE"), "cannot be loaded"),
        (("bench", "--net", "large"), "a net is written like"),
        (("evaluate", AGENT, "--env", "no such env"), "'no such env' is no environment id"),
        (("evaluate", AGENT, "--agent", "x", "--vecnormalize", "y"), "--vecnormalize is for conv"),
    ],
)
def test_errors_are_one_line_and_an_exit_status(
    arguments: Any, message: str, tmp_path: Path
) -> None:
    done = run(*(odd_agent(tmp_path) if a == "ODD" else a for a in arguments))
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_evaluate_says_at_once_what_can_be_known_before_the_work() -> None:
    wrong: dict[str, Any] = {"backend": "xx", "episodes": 0, "sim_steps": 0, "seed": -1}
    wrong |= {"hardware": ["abacus"], "agent": Path("no.spk"), "env": "no such env"}
    with pytest.raises(spikerl.SpikerlError) as caught:
        command.evaluate(Path("nowhere"), **wrong)
    for part in (
        "episodes must be a whole number >= 1, found 0",
        "sim_steps must be a whole number >= 1, found 0",
        "seed must be",
        "there is no file no.spk",
        "there is no file or directory nowhere",
        "'no such env' is no environment id",
        "no energies of 'abacus' are known",
        "there is no back end 'xx'; these are known: cpu: ready;",
    ):
        assert f"\n  - {part}" in str(caught.value)
    assert ":;" not in str(caught.value)


# --- the library behind evaluate ----------------------------------------------------------------


def test_evaluation_plays_the_episodes_of_a_loop_by_hand() -> None:
    source = model("dqn")
    agent = spikerl.convert(source, n_calibration=400, sim_steps=8)
    seen: list[int] = []
    with spikerl.HardwarePolicy(agent) as policy:
        result = evaluate(
            policy,
            lambda: gym.make("CartPole-v1"),
            original=source,
            episodes=3,
            seed=7,
            progress=seen.append,
        )
        env = gym.make("CartPole-v1")
        for acting, side in ((source, result.original), (policy, result.spiking)):
            assert side is not None
            returns, same = [], []
            for seed in (7, 8, 9):
                observation, _ = env.reset(seed=seed)
                total, over = 0.0, False
                while not over:
                    action, _ = acting.predict(observation, deterministic=True)
                    same.append(action == source.predict(observation, deterministic=True)[0])
                    observation, reward, terminated, truncated, _ = env.step(action)
                    total, over = total + float(reward), terminated or truncated
                returns.append(total)
            assert list(side.returns) == returns
        assert result.agreement is not None
        assert result.agreement.value == pytest.approx(np.mean(same))
    assert seen == list(range(1, 7))
    assert len(result.rates) == 2


def test_evaluate_says_what_a_decision_costs() -> None:
    short = ("--episodes", 1, "-T", 4, "--seed", 3)
    done = run("evaluate", AGENT, *short, "--hardware", "odin")
    assert done.returncode == 0, done.stderr
    assert re.search(r"latency here: original \S+ ms .*, spiking \S+ ms", done.stdout)
    assert "the original's 4,480 MACs: 20.6 nJ" in done.stdout  # 4 x 64 + 64 x 64 + 64 x 2
    assert re.search(r"energy on odin: .*estimate.* without input, neurons", done.stdout)
    cost = json.loads(run("evaluate", AGENT, *short, "--json").stdout)["cost"]
    counted = cost["operations"]
    assert counted["effective_macs"] == 4 * 4 * 64
    assert counted["dense"] == 4 * cost["original_macs"] == 4 * 4480
    assert f"{counted['effective_acs']:,.0f} ACs" in done.stdout
    listed = json.loads(run("energy", "--json").stdout)
    assert [found["hardware"] for found in cost["energy"]] == list(listed)
    assert all(entry["source"] and entry["year"] for entry in listed.values())
    assert "Davies et al." in run("energy").stdout.replace("\n", " ")


def test_hardware_without_known_energies_is_refused_before_the_work() -> None:
    done = run("evaluate", AGENT, "--hardware", "abacus")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no energies of 'abacus' are known; wanted one of cmos45")
    assert "Traceback" not in done.stderr


def test_continuous_policies_are_compared_by_their_error() -> None:
    source = model("sac")
    agent = spikerl.convert(source, n_calibration=400, sim_steps=256)
    with spikerl.HardwarePolicy(agent) as policy:
        result = evaluate(policy, lambda: gym.make("Pendulum-v1"), original=source, episodes=2)
    assert result.agreement is None
    assert result.action_error is not None
    assert result.action_error.value < 1.0
    assert result.original is not None
    assert result.paired is not None
    difference = np.mean(np.subtract(result.spiking.returns, result.original.returns))
    assert result.paired.difference.value == pytest.approx(difference)
    assert difference != 0
    with pytest.raises(spikerl.SpikerlError, match="episodes must be at least 1"):
        evaluate(policy, lambda: gym.make("Pendulum-v1"), episodes=0)
