"""The nodes of a NIR graph in order, where they form one chain with loops on single nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NEURONS = ("IF", "LIF", "I", "LI")
LINEAR = ("Affine", "Linear", "Conv2d")
KNOWN = (*NEURONS, *LINEAR, "AvgPool2d", "Flatten", "Delay", "Input", "Output")


@dataclass(frozen=True)
class Link:
    """A node of the chain.

    kind: its type's name.  loop: the Linear that brings its spikes back to it, or None.
    """

    name: str
    node: Any
    kind: str
    loop: Any = None


def chain_of(nir: Any, graph: Any) -> tuple[list[Link], list[str]]:
    """The chain from Input to Output and every reason why there is none."""
    kinds = {name: type(node).__name__ for name, node in graph.nodes.items()}
    problems = [
        f"node {name!r}: {kind} has no counterpart in spikerl"
        for name, kind in kinds.items()
        if kind not in KNOWN
    ]
    ends = {}
    for end in ("Input", "Output"):
        found = [name for name, kind in kinds.items() if kind == end]
        if len(found) != 1:
            problems.append(f"{len(found)} {end} nodes, wanted one")
        else:
            ends[end] = found[0]
    after: dict[str, list[str]] = {name: [] for name in graph.nodes}
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for start, stop in graph.edges:
        after[start].append(stop)
        before[stop].append(start)
    loops: dict[str, str] = {}
    for name, kind in kinds.items():
        around = after[name] == before[name] and len(after[name]) == 1
        if around and after[name] != [name]:
            owner = after[name][0]
            weights = kind == "Linear" and graph.nodes[name].weight.ndim == 2
            if weights and kinds[owner] in ("IF", "LIF") and owner not in loops.values():
                loops[name] = owner
            else:
                problems.append(
                    f"node {name!r} loops around {owner!r}: only one Linear around IF or LIF is "
                    "a recurrent layer"
                )
                loops[name] = owner
    links: list[Link] = []
    if len(ends) == 2:
        links, more = _walk(graph, kinds, ends, after, before, loops)
        problems += more
    return links, problems


def _walk(
    graph: Any,
    kinds: dict[str, str],
    ends: dict[str, str],
    after: dict[str, list[str]],
    before: dict[str, list[str]],
    loops: dict[str, str],
) -> tuple[list[Link], list[str]]:
    links: list[Link] = []
    seen: set[str] = set(loops)
    name = ends["Input"]
    while True:
        seen.add(name)
        loop = next((graph.nodes[k] for k, owner in loops.items() if owner == name), None)
        links.append(Link(name, graph.nodes[name], kinds[name], loop))
        following = [n for n in after[name] if n not in loops]
        if name == ends["Output"] and not following:
            break
        if len(following) != 1:
            return links, [f"node {name!r} goes to {len(following)} nodes, wanted one: a chain"]
        name = following[0]
        coming = [n for n in before[name] if n not in loops]
        if len(coming) != 1:
            return links, [f"node {name!r} hears {len(coming)} nodes, wanted one: a chain"]
        if name in seen:
            return links, [f"node {name!r} is on a circle"]
    left = [n for n in graph.nodes if n not in seen]
    return links, [f"node {n!r} is not between Input and Output" for n in left]


def shape_of(node: Any) -> tuple[int, ...] | None:
    """What an Input gives out, without batch; None where it does not say."""
    (shape,) = (node.input_type or {"input": None}).values()  # the key's name differs by program
    return None if shape is None else tuple(int(n) for n in np.atleast_1d(shape))
