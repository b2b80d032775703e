"""Reading SB3 checkpoints: a zip or an rl-zoo3 directory, today's or years old. Imports SB3.

SB3's zips hold pickles, which run code when loaded: open only files you trust. What acting does not
need (schedules, buffers, noise) is replaced before it is unpickled, so old files load as well.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import random
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sb3_contrib
import stable_baselines3
import torch
import yaml
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from spikerl.errors import ConversionError
from spikerl.policies.proxy import ProxyTD3

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "a2c": stable_baselines3.A2C,
    "ars": sb3_contrib.ARS,
    "ddpg": stable_baselines3.DDPG,
    "dqn": stable_baselines3.DQN,
    "ppo": stable_baselines3.PPO,
    "ppo_lstm": sb3_contrib.RecurrentPPO,
    "proxy_td3": ProxyTD3,
    "qrdqn": sb3_contrib.QRDQN,
    "sac": stable_baselines3.SAC,
    "td3": stable_baselines3.TD3,
    "tqc": sb3_contrib.TQC,
    "trpo": sb3_contrib.TRPO,
}
# spikerl's own policies, but for those that several algorithms share
SPIKING = {
    "CommonModeDQNPolicy": "dqn",
    "ProxyTD3Policy": "proxy_td3",
    "SpikingDQNPolicy": "dqn",
    "SpikingQRDQNPolicy": "qrdqn",
    "SpikingRecurrentPolicy": "ppo_lstm",
    "SpikingSACPolicy": "sac",
    "SpikingTD3Policy": "td3",
    "SpikingTQCPolicy": "tqc",
}
# What a checkpoint must be unpickled for; everything else that is pickled is left alone.
_NEEDED = {"policy_class", "policy_kwargs", "observation_space", "action_space", "train_freq"}
_STACK = "spikerl.conversion.frames.StackFrames"
_HARMLESS: dict[str, Any] = {
    "learning_rate": 0.0,
    "clip_range": 0.2,
    "clip_range_vf": None,
    "target_entropy": -1.0,
    "buffer_size": 1,  # a buffer nobody fills
}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded model and what its files say about it.

    env_id, env_kwargs, wrappers: the environment it was trained in, where the files tell.
    vecnormalize: the path of its statistics, or None.
    details:      algorithm, SB3 version and SHA-256, for the agent's provenance.
    """

    model: BaseAlgorithm
    env_id: str | None
    env_kwargs: Mapping[str, Any]
    wrappers: tuple[Any, ...]
    vecnormalize: Path | None
    details: Mapping[str, Any]


def load_checkpoint(path: str | Path, algo: str | None = None) -> Checkpoint:
    """Load a .zip or an rl-zoo3 directory (ALGO/ENV_1/ with ENV.zip or best_model.zip).

    algo: the algorithm, if it must be a certain one; else the directory's name and the file tell.
    Raises ConversionError if there is no checkpoint, or it is one of another algorithm.
    """
    file = checkpoint_file(path)
    data, version = _data(file)
    found = _algorithm(data, file)
    # rl-zoo names its folders ALGO/ENV_1; any other parent says nothing about the algorithm.
    folder = file.parent.parent.name if _run_name(file.parent) else None
    wanted = algo or (folder if folder in ALGORITHMS else None)
    if wanted is not None and wanted not in ALGORITHMS:
        raise ConversionError(f"algo is {wanted!r}; wanted one of {', '.join(ALGORITHMS)}")
    if wanted is not None and wanted != found and {wanted, found} != {"td3", "ddpg"}:
        raise ConversionError(f"{file} is a checkpoint of {found.upper()}, not of {wanted.upper()}")
    model = _load(file, data, ALGORITHMS[wanted or found])
    config, arguments = _settings(file)
    statistics = _statistics_file(file)
    if statistics is None and _normalizes(config.get("normalize")):
        raise ConversionError(
            f"{file} was trained on normalised observations (config.yml says normalize: "
            f"{config['normalize']}), but there is no vecnormalize.pkl beside it; pass "
            "vecnormalize="
        )
    return Checkpoint(
        model=model,
        env_id=arguments.get("env") or _run_name(file.parent),
        env_kwargs={**_as_dict(config.get("env_kwargs")), **_as_dict(arguments.get("env_kwargs"))},
        wrappers=(*_as_tuple(config.get("env_wrapper")), *_frame_stack(config.get("frame_stack"))),
        vecnormalize=statistics,
        details={
            "file": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "algorithm": wanted or found,
            "sb3_version": version,
        },
    )


def checkpoint_file(path: str | Path) -> Path:
    """The .zip that a path stands for: a file, or the one in an rl-zoo3 directory."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        zipped = path.with_name(path.name + ".zip")  # SB3 lets users leave the ending out
        if zipped.is_file():
            return zipped
        raise ConversionError(f"there is no file or directory {path}")
    name = _run_name(path)
    for candidate in (path / f"{name}.zip", path / "best_model.zip"):
        if candidate.is_file():
            return candidate
    zips = sorted(path.glob("*.zip"))
    if len(zips) == 1:
        return zips[0]
    wanted = "best_model.zip" if name is None else f"{name}.zip or best_model.zip"
    raise ConversionError(
        f"{path} holds {len(zips)} .zip files and none called {wanted}; name the one you mean"
    )


def _run_name(directory: Path) -> str | None:
    match = re.fullmatch(r"(.+-v\d+)_\d+", directory.name)
    return match[1] if match else None


def _data(file: Path) -> tuple[dict[str, Any], str | None]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            data = json.loads(archive.read("data"))
            version = "_stable_baselines3_version"
            text = archive.read(version).decode().strip() if version in names else None
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise ConversionError(f"{file} is no checkpoint of SB3: {error}") from error
    if not isinstance(data, dict) or "policy_class" not in data:
        raise ConversionError(f"{file} is no checkpoint of SB3: it does not name a policy class")
    return data, text


def _algorithm(data: Mapping[str, Any], file: Path) -> str:
    entry = data["policy_class"]
    module = str(entry.get("__module__", "") if isinstance(entry, dict) else entry)
    if module.startswith("spikerl."):
        # The name stands in the pickle, which need not be run to be read.
        pickled = base64.b64decode(entry.get(":serialized:", ""))
        for name, kind in SPIKING.items():
            if name.encode() in pickled:
                module = f".{kind}."
    for part in ("maskable", "recurrent", "crossq"):
        if part in module:
            raise ConversionError(
                f"{file} is a checkpoint with a {part} policy ({module}), which is not supported; "
                f"supported are {', '.join(ALGORITHMS)}, ppo_lstm with "
                "spikerl.policies.SpikingRecurrentPolicy"
            )
    for name in ("ppo_lstm", "proxy_td3", "qrdqn", "dqn", "sac", "tqc", "ars"):
        if f".{name}." in module:
            return name
    if ".td3." in module:
        return "ddpg" if data.get("policy_delay") == 1 else "td3"
    if "cg_max_steps" in data:
        return "trpo"
    return "ppo" if "clip_range" in data else "a2c"


def _load(file: Path, data: Mapping[str, Any], kind: type[BaseAlgorithm]) -> BaseAlgorithm:
    replaced = dict(_HARMLESS)
    for name, value in data.items():
        pickled = isinstance(value, dict) and ":serialized:" in value
        if pickled and name not in _NEEDED and name not in replaced:
            replaced[name] = None
    for name in ("observation_space", "action_space"):
        entry = data.get(name)
        if isinstance(entry, dict) and "'gym.spaces" in str(entry.get(":type:")):
            replaced[name] = _space(entry, file)
    try:
        with warnings.catch_warnings(), _same_chance():
            # About the optimiser of old DQN files; nobody trains here.
            warnings.filterwarnings("ignore", message="You are probably loading a DQN model")
            return kind.load(file, device="cpu", custom_objects=replaced)
    except Exception as error:  # SB3 unpickles: anything can go wrong in a file that is not sound
        raise ConversionError(
            f"{file} could not be loaded by {kind.__name__}.load: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _same_chance() -> Iterator[None]:
    """Loading a model seeds the global generators with the model's seed: put them back."""
    state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)


def _space(entry: Mapping[str, Any], file: Path) -> spaces.Space[Any]:
    """A space of the old gym package, from the readable text SB3 writes beside the pickle."""
    kind = str(entry[":type:"])
    try:
        if "Discrete'" in kind and "Multi" not in kind:
            return spaces.Discrete(int(entry["n"]))
        if "MultiDiscrete" in kind:
            return spaces.MultiDiscrete(_numbers(entry["nvec"]).astype(np.int64))
        if "MultiBinary" in kind:
            return spaces.MultiBinary(int(entry["n"]))
        if "Box" in kind:
            shape, dtype = (
                tuple(json.loads(str(entry.get("_shape", entry.get("shape"))))),
                np.dtype(str(entry["dtype"])),
            )
            low, high = (_numbers(entry[end]).reshape(shape) for end in ("low", "high"))
            with np.errstate(over="ignore"):
                return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype.type)
    except (KeyError, TypeError, ValueError) as error:
        raise ConversionError(f"{file} describes a space that cannot be read: {error}") from error
    raise ConversionError(f"{file} was saved with the old gym and has the space {kind}")


def _numbers(text: Any) -> Any:
    return np.array(str(text).replace("[", " ").replace("]", " ").split(), dtype=np.float64)


def _statistics_file(file: Path) -> Path | None:
    for folder in (file.parent / (_run_name(file.parent) or file.stem), file.parent):
        if (folder / "vecnormalize.pkl").is_file():
            return folder / "vecnormalize.pkl"
    return None


def _settings(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = file.parent / (_run_name(file.parent) or file.stem)
    return _yaml(folder / "config.yml"), _yaml(folder / "args.yml")


class _Plain(yaml.SafeLoader):
    """rl-zoo dumps an OrderedDict; nothing else beyond plain YAML is understood."""


def _ordered(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    assert isinstance(node, yaml.SequenceNode)
    return dict(loader.construct_sequence(node, deep=True)[0])


_Plain.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered)
_Plain.add_constructor(
    "tag:yaml.org,2002:python/tuple",
    lambda loader, node: tuple(loader.construct_sequence(node)),  # type: ignore[arg-type]
)


def _yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = yaml.load(path.read_text(), Loader=_Plain)
    except yaml.YAMLError as error:
        raise ConversionError(f"{path} could not be read: {error}") from error
    return content if isinstance(content, dict) else {}


def _normalizes(setting: Any) -> bool:
    if isinstance(setting, str):
        return "norm_obs=False" not in setting.replace(" ", "").replace("'norm_obs':", "norm_obs=")
    return setting.get("norm_obs", True) if isinstance(setting, dict) else bool(setting)


def _as_dict(setting: Any) -> dict[str, Any]:
    if isinstance(setting, str):
        call = re.fullmatch(r"\s*dict\((.*)\)\s*", setting, re.DOTALL)
        if call is None:
            return dict(ast.literal_eval(setting))
        tree = ast.parse(setting.strip(), mode="eval").body
        assert isinstance(tree, ast.Call)
        return {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords}
    return dict(setting or {})


def _frame_stack(n_stack: Any) -> tuple[Any, ...]:
    """rl-zoo's frame_stack as the wrapper that does the same to a single environment."""
    return () if n_stack is None else ({_STACK: {"n_stack": n_stack}},)


def _as_tuple(setting: Any) -> tuple[Any, ...]:
    return tuple(setting) if isinstance(setting, list) else ((setting,) if setting else ())
