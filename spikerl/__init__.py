"""spikerl: spiking neural networks as reinforcement-learning agents.

Public names, loaded when first used: importing spikerl loads neither torch, SB3 nor a simulator.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikerl import backends, errors, metrics, reference, testing
    from spikerl.agent import SpikingAgent
    from spikerl.callbacks import ConversionCallback
    from spikerl.conversion import convert
    from spikerl.conversion.distillation import distill
    from spikerl.episode import EpisodeRecording
    from spikerl.errors import SpikerlError
    from spikerl.hardware import HardwarePolicy
    from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, Recording, SpikingNetwork

__version__ = "0.1.0"

_HOMES = {
    "SpikingAgent": "agent",
    "ConversionCallback": "callbacks",
    "convert": "conversion",
    "distill": "conversion.distillation",
    "EpisodeRecording": "episode",
    "SpikerlError": "errors",
    "HardwarePolicy": "hardware",
    "AvgPool2d": "network",
    "Conv2d": "network",
    "Dense": "network",
    "Flatten": "network",
    "Recording": "network",
    "SpikingNetwork": "network",
}
_MODULES = ("backends", "errors", "metrics", "reference", "testing")

__all__ = [
    "AvgPool2d",
    "Conv2d",
    "ConversionCallback",
    "Dense",
    "EpisodeRecording",
    "Flatten",
    "HardwarePolicy",
    "Recording",
    "SpikerlError",
    "SpikingAgent",
    "SpikingNetwork",
    "__version__",
    "backends",
    "convert",
    "distill",
    "errors",
    "metrics",
    "reference",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"spikerl.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'spikerl' has no attribute {name!r}")
    try:
        module = import_module(f"spikerl.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"spikerl.{name} needs {error.name}: pip install 'spikerl[sb3]'", name=error.name
        ) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
