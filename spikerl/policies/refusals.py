"""What is wrong with the keywords of a policy, gathered so that one error says all of it.

Imports errors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from spikerl.errors import BackendError, SpikerlError, checked_whole, listed, reasons

Made = TypeVar("Made")


class Refusals:
    """Every problem found so far; raised together by done()."""

    def __init__(self, policy: Any) -> None:
        self.policy = type(policy).__name__
        self.problems: list[str] = []

    def tried(self, make: Callable[..., Made], *args: Any) -> Made | None:
        """What is made of these arguments; None if that is refused, with the reasons kept."""
        try:
            return make(*args)
        except BackendError as error:  # may list what there is
            self.problems.append(str(error).replace("\n", "\n  "))
        except SpikerlError as error:
            self.problems += reasons(error)
        return None

    def name(self, keyword: str, value: Any, optional: bool = False) -> bool:
        """Whether a value is a name, which is all that some keywords take."""
        if isinstance(value, str) or (optional and value is None):
            return True
        self.problems.append(f"{keyword} must be a name, found {value!r}")
        return False

    def mapping(self, keyword: str, value: Any, example: str) -> Mapping[str, Any]:
        """The keywords within a keyword; none of them where something else was given."""
        if value is None or isinstance(value, Mapping):
            return value or {}
        self.problems.append(
            f"{keyword} must be a mapping of names to values such as {example}, found {value!r}"
        )
        return {}

    def done(self) -> None:
        """Raise SpikerlError with every problem, if there is one."""
        if self.problems:
            raise SpikerlError(listed(f"{self.policy} cannot be made so", self.problems))


def unknown_keywords(policy: Any, mixin: type[Any], given: Mapping[str, Any]) -> list[str]:
    """Keywords that no class takes, with the nearest name of one that some class has.

    mixin: the class that was handed the keywords and would hand them on to those behind it.
    """
    line = type(policy).__mro__
    behind = line[line.index(mixin) + 1 :]
    taken: set[str] = set()
    for kind in behind:
        names, more = _parameters(kind)
        taken |= names
        if not more:
            break
    known = taken.union(*(_parameters(kind)[0] for kind in line[: line.index(mixin) + 1]))
    found = []
    for name in sorted(set(given) - taken):
        near = get_close_matches(name, known, 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
        found.append(f"there is no keyword {name!r}; {hint}")
    return found


def arch_problems(given: Any, parts: Sequence[str]) -> list[str]:
    """What is wrong with net_arch: widths for all, or by part where the policy has parts."""
    if given is None or not width_problems("net_arch", given):
        return []
    if parts and isinstance(given, list) and len(given) == 1 and isinstance(given[0], Mapping):
        given = given[0]  # as SB3 had it before
    by_part = {part: [64, 64] for part in parts}
    wanted = "a list of widths such as [64, 64]" + (f", or {by_part!r}" if parts else "")
    if not parts or not isinstance(given, Mapping):
        return [f"net_arch must be {wanted}; found {given!r}"]
    found = [f"net_arch has {part!r}; wanted {wanted}" for part in given if part not in parts]
    for part in parts:
        if part in given:
            found += width_problems(f"net_arch[{part!r}]", given[part])
        elif "qf" in parts:  # SB3 wants both where a critic judges actions
            found.append(f"net_arch lacks {part!r}; wanted {wanted}")
    return found


def width_problems(keyword: str, value: Any) -> list[str]:
    """What is wrong with the widths of hidden layers, which may be none."""
    many = isinstance(value, Sequence) and not isinstance(value, str)
    if many and not any(checked_whole(keyword, n) for n in value):
        return []
    return [f"{keyword} must be a list of whole numbers >= 1 such as [64, 64], found {value!r}"]


def _parameters(kind: type[Any]) -> tuple[set[str], bool]:
    """Names that the __init__ of this very class takes, and whether it hands others on."""
    own = vars(kind).get("__init__")
    if own is None:
        return set(), True
    found = list(inspect.signature(own).parameters.values())[1:]
    more = any(p.kind is p.VAR_KEYWORD for p in found)
    return {p.name for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}, more
