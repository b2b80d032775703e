"""The entries of zoo/*.yml, by algorithm and environment."""

import warnings
from importlib import import_module
from pathlib import Path

import yaml

ZOO = Path(__file__).parents[1] / "zoo"
FILES = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in sorted(ZOO.glob("*.yml"))}
ENTRIES = [(algo, env) for algo, entries in FILES.items() for env in entries if env != "atari"]


def register_environments() -> None:
    """Those without velocities, which importing rl_zoo3 registers; it warns as it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("rl_zoo3.import_envs")
