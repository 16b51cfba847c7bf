"""Values that must not be stored: taken out of the claims of a record before anybody keeps it.

    masked = Mask(("card.number", "users.*.token"))
    claims, paths = masked.apply(claims)

A path names keys from the outside in; `*` stands for any one key. Elements of lists count as one
step without a name: `users.token` reaches into every element of a list `users`. A path that ends at
a map or a list hides all of it.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from controlplane.domain.decisions.records import MASKED
from controlplane.domain.policies import ConditionExplanation, PolicyExplanation

_ANY: Final = "*"
_CLAIM_PREFIXES: Final = frozenset({"claim", "context"})
_CACHED_MASKS: Final = 1024  # different settings at once; one per namespace that has any

_Path = tuple[str, ...]


class Mask:
    """The paths of a namespace's settings, ready to be applied."""

    __slots__ = ("_paths",)

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths: tuple[_Path, ...] = tuple(tuple(path.split(".")) for path in paths)

    def apply(self, claims: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """Return the claims without their secrets, and the paths that were masked, sorted.

        Without anything to mask the claims come back as they are, not copied.
        """
        hit: set[str] = set()
        masked = claims
        for path in self._paths:
            masked = _masked(masked, path, "", hit)
        return masked, tuple(sorted(hit))


@lru_cache(maxsize=_CACHED_MASKS)
def mask_of(paths: tuple[str, ...]) -> Mask:
    """Return the mask of some paths."""
    return Mask(paths)


def _masked(value: Any, path: _Path, above: str, hit: set[str]) -> Any:
    """Return `value` with what is at `path` masked: the same object if there is nothing."""
    if isinstance(value, list):
        items = [_masked(item, path, above, hit) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if not isinstance(value, Mapping):
        return value
    step, below = path[0], path[1:]
    changed: dict[str, Any] = {}
    for key in value if step == _ANY else (step,) if step in value else ():
        here = f"{above}.{key}" if above else key
        if below:
            inside = _masked(value[key], below, here, hit)
            if inside is not value[key]:
                changed[key] = inside
        else:
            hit.add(here)
            changed[key] = MASKED
    return {**value, **changed} if changed else value


def readers_of_masked(
    explanations: Sequence[PolicyExplanation], masked_paths: Sequence[str]
) -> tuple[str, ...]:
    """Return the policies that looked at masked values, by id: their answer need not be right.

    `explanations` are those of a full explanation on the masked claims.
    """
    masked = [tuple(path.split(".")) for path in masked_paths]
    if not masked:
        return ()
    return tuple(
        sorted(
            one.policy_id
            for one in explanations
            if one.condition is not None and _reads(one.condition, masked)
        )
    )


def _reads(node: ConditionExplanation, masked: Sequence[_Path]) -> bool:
    if node.attribute:
        steps = tuple(node.attribute.split("."))
        if steps[0] in _CLAIM_PREFIXES:
            steps = steps[1:]
        # The leaf reads the masked value, something inside of it, or a map that contains it.
        if any(path[: len(steps)] == steps[: len(path)] for path in masked):
            return True
    return any(_reads(child, masked) for child in node.children)
