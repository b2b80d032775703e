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


def keep_rules(module: nn.Module) -> None:
    """Save what module.rules() says with its parameters, and refuse parameters of other rules.

    Parameters without rules are taken as they are. Loading raises SpikerlError with what differs.
    """
    module.register_state_dict_post_hook(_save)  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(_compare)  # type: ignore[no-untyped-call]


def _save(module: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    text = json.dumps(module.rules(), sort_keys=True).encode()
    state[prefix + KEY] = torch.tensor(list(text), dtype=torch.uint8)


def _compare(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    saved = state.pop(prefix + KEY, None)
    if saved is None:
        return
    theirs, ours = json.loads(bytes(saved.tolist())), json.loads(json.dumps(module.rules()))
    differ = [
        f"{name} was {theirs.get(name)!r} and is {ours.get(name)!r}"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    ]
    if differ:
        raise SpikerlError(
            f"these weights were trained under other rules: {'; '.join(differ)}. Make the policy "
            "with the policy_kwargs it was trained with"
        )
