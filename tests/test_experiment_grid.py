"""The file of an experiment: what it may say, and what is refused before anything runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from experiments import AGENT, SMALL, small_cells

from spikerl.errors import SpikerlError
from spikerl.experiment import cells_of, make_grid, read_cells, read_grid, run_cell
from spikerl.experiment.trial import two_neurons

SPIKING = AGENT.parents[1] / "ppo" / "CartPole-v1_1"  # trained with 8 steps
NORMALISED = AGENT.parents[1] / "ppo" / "Acrobot-v1_1" / "Acrobot-v1" / "vecnormalize.pkl"


def refused(**other: Any) -> str:
    with pytest.raises(SpikerlError) as caught:
        small_cells(**other)
    return str(caught.value)


def written(folder: Path, text: str) -> Path:
    path = folder / "grid.yml"
    path.write_text(text, "utf-8")
    return path


def test_a_file_names_every_combination_once(tmp_path: Path) -> None:
    text = f"""
        agents:
          - {AGENT}
          - {{source: {AGENT}/CartPole-v1.zip, name: again, env: CartPole-v0}}
        conversions: [{{}}, {{name: zero, reset: zero}}]
        backends: [cpu, {{name: torch, label: float32, options: {{dtype: float32}}}}]
        sim_steps: [8, 16]
        seeds: [0, 1, 2]
    """
    grid = read_grid(written(tmp_path, text))
    cells = cells_of(grid)
    assert len(cells) == 2 * 2 * 2 * 2 * 3
    assert len({cell.id for cell in cells}) == len(cells)
    assert {cell.agent.name for cell in cells} == {"dqn/CartPole-v1_1", "again"}
    assert {cell.conversion.name for cell in cells} == {"default", "zero"}
    assert {cell.episodes for cell in cells} == {20}
    assert dict(cells[3].backend.options) == {"dtype": "float32"}


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "runs" / "dqn").mkdir(parents=True)
    (tmp_path / "runs" / "dqn" / "CartPole-v1_1").symlink_to(AGENT)
    grid = read_grid(written(tmp_path, "agents: runs/dqn/CartPole-v1_1"))
    assert grid.agents[0].source == str(tmp_path / "runs" / "dqn" / "CartPole-v1_1")
    assert len(cells_of(grid)) == 1


def test_a_cell_is_its_contents_not_its_names(tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "CartPole-v1_7").symlink_to(AGENT)
    usual = {"name": "other", "n_calibration": 200}
    (one, *_), (two, *_) = (
        small_cells(),
        small_cells(
            agents=[{"source": str(tmp_path / "moved" / "CartPole-v1_7"), "name": "x"}],
            conversions=[usual],
            backends=[{"name": "cpu", "label": "mine"}],
        ),
    )
    assert one.id == two.id
    for other in (
        {"conversions": [{**usual, "n_calibration": 300}]},
        {"backends": [{"name": "cpu", "options": {"precision": "float32"}}]},
        {"sim_steps": [5]},
        {"seeds": [1]},
        {"episodes": 2},
        {"agents": [{"source": str(AGENT), "env": "CartPole-v0"}]},
    ):
        assert small_cells(**other)[0].id != one.id


def test_seeds_of_a_conversion_are_another_agent_but_back_ends_share_one() -> None:
    cells = small_cells(seeds=[0, 1])
    assert len({cell.conversion_id for cell in cells}) == len(cells) / 2


def test_a_target_of_backend_is_each_cells_own() -> None:
    conversions = [{"name": "chip", "target": "backend"}]
    cells = small_cells(conversions=conversions, backends=["cpu", "reference"])
    assert [cell.settings["target"] for cell in cells] == ["cpu", "reference"]
    assert len({cell.conversion_id for cell in cells}) == 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"backend": ["cpu"]}, "the file has the key 'backend'; did you mean 'backends'?"),
        ({"simsteps": 8}, "did you mean 'sim_steps'?"),
        ({"zzz": 1}, "the file has the key 'zzz'; known are agents, conversions, backends"),
        ({"agents": []}, "agents is missing"),
        ({"agents": [{"path": "x"}]}, "wanted a path or {source: PATH, ...}"),
        ({"agents": [{"source": "x", "enviroment": "y"}]}, "did you mean 'env'?"),
        ({"agents": ["old.spk"]}, "old.spk is converted already"),
        ({"conversions": [{"resset": "zero"}]}, "has the key 'resset'; did you mean 'reset'?"),
        ({"conversions": [{"sim_steps": 3}]}, "sets sim_steps, which belongs to sim_steps of the"),
        ({"conversions": [{"distill": {"update": 3}}]}, "did you mean 'updates'?"),
        ({"conversions": ["zero"]}, "a conversion is 'zero'"),
        ({"conversions": []}, "conversions is empty"),
        ({"backends": [{"name": "cpu", "option": {}}]}, "did you mean 'options'?"),
        ({"backends": [{"name": "cpu", "isolation": "box"}]}, "isolation is 'box'"),
        ({"backends": ["cpu", "cpu"]}, "backends has 'cpu' twice"),
        ({"sim_steps": [0]}, "sim_steps must be a whole number >= 1, found 0"),
        ({"sim_steps": True}, "sim_steps must be a whole number >= 1, found True"),
        ({"seeds": [-1]}, "seed must be None or a whole number >= 0, found -1"),
        ({"seeds": [None]}, "seeds must be a whole number >= 0, found None"),
        ({"episodes": 1.5}, "episodes must be a whole number >= 1, found 1.5"),
    ],
)
def test_the_form_of_a_file_is_checked(other: dict[str, Any], message: str) -> None:
    assert message in refused(**other)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"agents": ["nowhere"]}, "there is no file or directory"),
        ({"agents": [{"source": str(AGENT), "env": "Pole-v7"}]}, "no environment Pole-v7"),
        ({"agents": [{"source": str(AGENT), "env": "Pendulum-v1"}]}, "was trained for Discrete(2)"),
        ({"conversions": [{"reset": "soft"}]}, "reset is 'soft'; wanted one of"),
        ({"conversions": [{"target": "abacus"}]}, "its target 'abacus' is no back end"),
        ({"conversions": [{"distill": {"updates": 0}}]}, "updates is 0, wanted a number > 0"),
        ({"backends": ["abacus"]}, "there is no back end 'abacus'; there are cpu, "),
        ({"backends": ["pynn:neuron"]}, "layer"),
        (
            {"agents": [{"source": str(AGENT), "env": "spikerl/CartPoleNoVel-v1"}]},
            "spikerl/CartPoleNoVel-v1 has the observations Box(2,)",
        ),
        (
            {"agents": [{"source": str(AGENT), "vecnormalize": str(NORMALISED)}]},
            "the normalisation statistics have shape (6,), the observation space has (4,)",
        ),
        ({"agents": [{"source": str(AGENT), "vecnormalize": "/none.pkl"}]}, "no file /none.pkl"),
        (
            {"backends": [{"name": "cpu", "options": {"precisoin": "float32"}}]},
            "'cpu' has no option precisoin; it has precision",
        ),
        (
            {"backends": [{"name": "cpu", "options": {"precision": "float128"}}]},
            "back end 'cpu' has no precision 'float128'",
        ),
        ({"backends": [{"name": "cpu", "options": {"seed": 1}}]}, "seed is no option"),
        ({"backends": [{"name": "cpu", "options": {"sim_steps": 1}}]}, "no option sim_steps"),
        (
            {"backends": [{"name": "cpu", "options": {"worker_timeout": 9}}]},
            "worker_timeout is of workers; give it `isolation: process`",
        ),
        (
            {"backends": [{"name": "torch", "options": {"device": "abacus:9"}}]},
            "cannot use device 'abacus:9'",
        ),
        (
            {"backends": [{"name": "cpu", "python": "/no/such"}]},
            "python='/no/such' cannot be started (No such file or directory)",
        ),
    ],
)
def test_what_a_file_names_is_checked_before_the_first_cell(
    other: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "pynn:neuron" in str(other):  # declared reset="zero" only, whether or not it is installed
        monkeypatch.setattr("spikerl.backends.ready", lambda name: None)
        message = "conversion 'usual' on back end 'pynn:neuron': reset='subtract' is not supported"
    assert message in refused(**other)


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(SpikerlError) as caught:
        make_grid({**SMALL, "sims": 1, "episodes": 0, "backends": [3]}, Path.cwd())
    for part in ("'sims'", "episodes must be", "a back end is 3"):
        assert part in str(caught.value)
    message = refused(agents=["nowhere"], backends=["abacus"], conversions=[{"reset": "soft"}])
    for part in ("nowhere", "'abacus'", "'soft'"):
        assert part in message


def test_what_is_wrong_with_one_agent_or_back_end_does_not_hide_the_rest() -> None:
    message = refused(
        agents=[{"source": str(AGENT), "env": "Acrobot-v1", "vecnormalize": str(NORMALISED)}],
        backends=[
            {"name": "cpu", "label": "one", "options": {"seed": 3, "foo": 1}},
            {"name": "cpu", "label": "two", "python": "/no/such"},
        ],
    )
    for part in (
        "Acrobot-v1 has the actions Discrete(3)",
        "Acrobot-v1 has the observations Box(6,)",
        "statistics have shape (6,)",
        "'one': seed is no option",
        "has no option foo",
        "python='/no/such'",
    ):
        assert part in message


def test_options_and_interpreters_that_can_be_used_are_not_refused() -> None:
    cells = small_cells(
        backends=[
            {"name": "cpu", "label": "float32", "options": {"precision": "float32"}},
            {"name": "cpu", "label": "patient", "isolation": "process"},
            {"name": "reference", "python": sys.executable, "options": {"worker_timeout": 300}},
        ]
    )
    assert {cell.backend.label for cell in cells} == {"float32", "patient", "reference"}


def test_options_and_interpreters_of_other_machines_are_not_looked_at() -> None:
    backends = [{"name": "cpu", "python": "/no/such", "options": {"foo": 1}}]
    assert len(cells_of(make_grid({**SMALL, "backends": backends}, Path.cwd()), here=False)) == 2


def test_every_back_end_is_tried_with_a_network_it_can_run() -> None:
    from spikerl import backends

    tried = []
    for name, known in backends.TABLE.items():
        if (capabilities := backends.capabilities(name)) is not None:
            network = two_neurons(capabilities)
            assert backends.load(name, known.target).problems(network) == [], name
            tried.append(name)
    assert {"cpu", "reference"} <= set(tried)


def test_a_wrong_key_hides_nothing_of_what_the_file_names(tmp_path: Path) -> None:
    text = """
        agents: [nowhere, {source: lost, enviroment: Pole-v7}]
        conversions: [{resset: zero, target: sundial}, {name: late, v_init: 3, sim_steps: 4}]
        backends: [abacus, {name: astrolabe, option: {}}]
        sims: 8
        sim_steps: [8, 0]
    """
    with pytest.raises(SpikerlError) as caught:
        read_cells(written(tmp_path, text))
    for part in (
        "the file has the key 'sims'; did you mean 'sim_steps'?",
        "has the key 'enviroment'",
        "has the key 'resset'",
        "sets sim_steps, which belongs to",
        "has the key 'option'",
        "sim_steps must be a whole number >= 1, found 0",
        f"there is no file or directory {tmp_path}/nowhere",
        f"there is no file or directory {tmp_path}/lost",
        "its target 'sundial' is no back end",
        "v_init is a share",
        "there is no back end 'abacus'",
        "there is no back end 'astrolabe'",
    ):
        assert part in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/grid.yml cannot be used:\n")
    assert ":;" not in str(caught.value)


def test_entries_of_the_wrong_kind_do_not_hide_the_others(tmp_path: Path) -> None:
    text = """
        agents: [nowhere, 3, {source: lost, env: 4, vecnormalize: [5]}]
        conversions: [6, {distill: {update: 1, updates: 0}}]
        backends: [{name: abacus, isolation: 7, python: 8, options: 9}, 10]
        sim_steps: x
    """
    with pytest.raises(SpikerlError) as caught:
        read_cells(written(tmp_path, text))
    for part in ("/nowhere", "/lost", "an agent is 3", "env is 4", "vecnormalize is [5]"):
        assert part in str(caught.value)
    for part in ("a conversion is 6", "'updates'?", "updates is 0", "'abacus'", "back end is 10"):
        assert part in str(caught.value)
    for part in ("isolation is 7", "python is 8", "options is 9", "found 'x'"):
        assert part in str(caught.value)


def test_a_file_without_mistakes_has_the_cells_of_its_grid(tmp_path: Path) -> None:
    path = written(tmp_path, f"agents: {AGENT}\nseeds: [0, 1]\n")
    assert read_cells(path) == cells_of(read_grid(path))
    assert [cell.sim_steps for cell in read_cells(path)] == [32, 32]
    with pytest.raises(SpikerlError, match=r"this experiment cannot be run:\n.*/nowhere"):
        read_cells(written(tmp_path, "agents: nowhere"))


# --- agents that spike already --------------------------------------------------------------------


def test_without_steps_an_agent_that_spikes_runs_with_its_own() -> None:
    both = {**SMALL, "agents": [str(AGENT), str(SPIKING)], "conversions": [{}]}
    del both["sim_steps"]
    cells = cells_of(make_grid(both, Path.cwd()))
    assert [(cell.agent.name, cell.sim_steps) for cell in cells if cell.backend.name == "cpu"] == [
        ("dqn/CartPole-v1_1", 32),
        ("ppo/CartPole-v1_1", 8),
    ]


def test_an_agent_that_spikes_is_measured(tmp_path: Path) -> None:
    grid = {"agents": str(SPIKING), "episodes": 1}
    (cell,) = cells_of(make_grid(grid, Path.cwd()))
    row = run_cell(cell, str(tmp_path))
    assert (row["status"], row["error"]) == ("done", None)
    assert (row["sim_steps"], row["steps_used"], row["return"]) == (8, 8, 500.0)
    same = cells_of(make_grid({**grid, "sim_steps": 8}, Path.cwd()))
    assert same[0].id == cell.id


def test_other_steps_than_an_agent_s_own_are_refused_before_the_first_cell() -> None:
    message = refused(agents=[str(AGENT), str(SPIKING)], sim_steps=[4, 8, 16], conversions=[{}])
    assert "agent ppo/CartPole-v1_1 spikes already and was trained with sim_steps 8" in message
    assert "found 4, 16: leave sim_steps out" in message
    assert "dqn" not in message


def test_settings_an_agent_that_spikes_does_not_have_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spikerl.backends.ready", lambda name: None)  # declared, perhaps not here
    spiking: dict[str, Any] = {"agents": [str(SPIKING)], "sim_steps": 8}
    settings = {"name": "odd", "reset": "zero", "v_init": 0.0, "readout": "auto", "threshold": "x"}
    assert "threshold is 'x'" in refused(**spiking, conversions=[settings])
    settings["threshold"] = "layer"
    message = refused(**spiking, conversions=[settings])
    for part in ("reset='zero'", "v_init=0.0", "threshold='layer'"):
        assert f"exported as it is, but conversion 'odd' asks for {part}" in message
    assert "readout" not in message
    assert "sim_steps" not in message
    message = refused(
        **spiking, conversions=[{"name": "fit", "target": "backend"}], backends=["cpu", "xylo"]
    )
    assert "conversion 'fit' on back end 'xylo' asks for delay_steps=2" in message
    assert "on back end 'cpu'" not in message


def test_a_back_end_that_cannot_run_an_agent_s_own_network_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spikerl.backends.ready", lambda name: None)
    message = refused(
        agents=[str(SPIKING)], sim_steps=8, conversions=[{}], backends=["cpu", "pynn:neuron"]
    )
    assert "spikes already and cannot run on back end 'pynn:neuron': layer 0" in message
    assert "'cpu'" not in message


def test_a_missing_back_end_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from spikerl import backends

    known = backends.Known("spikerl.backends.cpu:CpuBackend", ("no_such_package",), "nest")
    monkeypatch.setitem(backends.TABLE, "cpu", known)
    message = refused()
    assert "'cpu' cannot be used here: needs no_such_package; install it: pip install" in message
    grid = make_grid(SMALL, Path.cwd())
    assert len(cells_of(grid, here=False)) == 4  # other machines may have it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agents: [a\n", "is not YAML"),
        ("agents: a\nseeds: 1\nagents: b\n", "the key 'agents' is there twice"),
        ("- a\n", "wanted keys such as agents and backends"),
        ("agents: !!python/object/apply:os.getcwd []\n", "is not YAML"),
        ("", "holds None"),
    ],
)
def test_files_that_are_no_experiment_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpikerlError, match="grid") as caught:
        read_grid(written(tmp_path, text))
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpikerlError, match="cannot be read: No such file"):
        read_grid(tmp_path / "none.yml")


def test_the_example_of_the_chapter_can_be_run(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    (example,) = re.findall(
        r"^```yaml\n(.*?)^```",
        (root / "spikerl" / "experiment" / "README.md").read_text(),
        re.M | re.S,
    )
    (tmp_path / "zoo").symlink_to(root / "zoo")
    assert len(cells_of(read_grid(written(tmp_path, example)), here=False)) == 36
