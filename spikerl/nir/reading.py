"""A NIR graph as a SpikingNetwork."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from spikerl.errors import ConversionError, ConversionWarning, SpikerlError, listed
from spikerl.network import SpikingNetwork
from spikerl.nir.chain import Link, chain_of
from spikerl.nir.numbers import KEY, library
from spikerl.nir.stacking import Stack


def from_nir(
    graph: Any,
    *,
    dt: float | None = None,
    fires_at_threshold: bool = False,
    metadata: bool = True,
) -> SpikingNetwork:
    """The SpikingNetwork that a nir.NIRGraph is in steps of dt; one that to_nir() wrote comes back.

    dt:       seconds per step; None takes the graph's metadata "dt".
    fires_at_threshold: how graphs of others mean a threshold; NIR's definition is v > threshold.
    metadata: False reads the nodes alone, as other programs do.
    Without our metadata, neurons reset to zero; a graph that ends with weights has a read-out that
    sums what they give. Raises ConversionError with everything that the contract cannot say, and
    for metadata that contradict their node.
    """
    nir = library()
    if not isinstance(graph, nir.NIRGraph):
        raise SpikerlError(f"found {type(graph).__name__}, wanted a nir.NIRGraph")
    found = graph.metadata.get(KEY) if metadata else None
    own: dict[str, Any] = found if isinstance(found, dict) else {}
    said = float(graph.metadata["dt"]) if "dt" in graph.metadata else None
    problems: list[str] = []
    if own and dt is not None and dt != said:
        problems.append(
            f"spikerl's graph was written with dt={said}, found dt={dt}; leave dt out, or read the "
            "nodes alone with metadata=False"
        )
    dt = said if dt is None else dt
    if dt is None:
        problems.append("the graph does not say its time step: give dt in seconds, often 1e-4")
    elif not (np.isfinite(dt) and dt > 0):
        problems.append(f"dt must be finite and > 0 seconds, found {dt!r}")
    links: list[Link] = []
    if not problems:
        links, problems = chain_of(nir, graph)
    if problems:
        raise ConversionError("this graph cannot be read", problems)
    assert dt is not None
    stack = Stack(dt, fires_at_threshold, metadata)
    for link in links:
        stack.add(link)
    stack.finish()
    if stack.made.problems:
        raise ConversionError("this graph cannot be read", stack.made.problems)
    if stack.notes:
        warnings.warn(listed("read as NIR says", stack.notes), ConversionWarning, stacklevel=2)
    return SpikingNetwork(tuple(stack.made.layers), float(own.get("dt_ms", dt * 1000.0)))


def read(
    path: str | os.PathLike[str],
    *,
    dt: float | None = None,
    fires_at_threshold: bool = False,
    metadata: bool = True,
) -> SpikingNetwork:
    """The network in a NIR file; arguments and errors are those of from_nir()."""
    nir = library()
    try:
        graph = nir.read(os.fspath(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # of h5py and of nir, which checks types as it reads
        raise ConversionError(
            f"nir cannot read {os.fspath(path)!r}: {type(error).__name__}: {error}"
        ) from error
    return from_nir(graph, dt=dt, fires_at_threshold=fires_at_threshold, metadata=metadata)
