"""What weights were trained under, saved beside them, compared as they are loaded. Imports torch.

Weights of a policy with 4 steps fit into one with 8: without this they would be taken, and act
otherwise than they learned to.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from spikerl.errors import SpikerlError

KEY = "rules"
# 1: without sizes, decays, thresholds, first potentials and norms; 2: without strides, paddings and
# what SpikingJelly's neurons were not told
VERSION, NOW = "version", 3


def keep_rules(module: nn.Module) -> None:
    """Save what module.rules() says with its parameters, and refuse parameters of other rules.

    Parameters without rules are taken as they are. Loading raises SpikerlError with what differs.
    """
    module.register_state_dict_post_hook(_save)  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(_compare)  # type: ignore[no-untyped-call]


def _save(module: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    text = json.dumps({**module.rules(), VERSION: NOW}, sort_keys=True).encode()
    state[prefix + KEY] = torch.tensor(list(text), dtype=torch.uint8)


def _compare(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    saved = state.pop(prefix + KEY, None)
    if saved is None:
        return
    theirs, ours = json.loads(bytes(saved.tolist())), json.loads(json.dumps(module.rules()))
    found = _unlike(theirs, ours, before=theirs.pop(VERSION, 1) < NOW)
    if found:
        differ = "; ".join(f"{name} was {was!r} and is {now!r}" for name, was, now in found)
        raise SpikerlError(
            f"these weights were trained under other rules: {differ}. Make the policy with the "
            "policy_kwargs it was trained with"
        )


def _unlike(
    theirs: dict[str, Any], ours: dict[str, Any], before: bool
) -> list[tuple[str, Any, Any]]:
    """Name, theirs and ours of what differs; of rules within a rule only those that differ.

    before: theirs were saved when there were fewer rules: those it lacks are not compared, but
            layers it lacks are.
    """
    found = []
    for name in sorted({*theirs, *ours}):
        was, now = theirs.get(name), ours.get(name)
        if before and name not in theirs and not isinstance(now, dict):
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            within = _unlike(was, now, before)
            was, now = {x: a for x, a, _ in within}, {x: b for x, _, b in within}
        if was != now:
            found.append((name, was, now))
    return found
