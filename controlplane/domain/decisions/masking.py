"""Values that must not be stored: taken out of the claims of a record before anybody keeps it.

    masked = Mask(("card.number", "users.*.token"))
    claims, paths = masked.apply(claims)

A path names keys from the outside in; `*` stands for any one key. Elements of lists count as one
step without a name: `users.token` reaches into every element of a list `users`. A path that ends at
a map or a list hides all of it.

Too much is rather hidden than too little: keys that contain dots are found by the dotted path as
well, paths may begin with `claim.` or `context.` as attributes in policies do, or be written as
JSONPath (`$.users[*].token`), and letters are compared in Unicode NFC, as claims are.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from unicodedata import normalize

from controlplane.domain.decisions.records import MASKED
from controlplane.domain.policies import ConditionExplanation, PolicyExplanation

_ANY: Final = "*"
_CLAIM_PREFIXES: Final = frozenset({"claim", "context"})
_CACHED_MASKS: Final = 1024  # different settings at once; one per namespace that has any

_ELEMENTS: Final = re.compile(r"\[(?:\*|\d*)\]")
"""Of lists, in JSONPath."""

_Path = tuple[str, ...]


class Mask:
    """The paths of a namespace's settings, ready to be applied."""

    __slots__ = ("_paths",)

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths: tuple[_Path, ...] = tuple(
            dict.fromkeys(read for path in paths for read in paths_meant(path))
        )

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


def paths_meant(text: str) -> tuple[_Path, ...]:
    """Return the paths that somebody may have meant: one, or with and without its prefix."""
    plain = _ELEMENTS.sub("", normalize("NFC", text).removeprefix("$."))
    steps = tuple(plain.split("."))
    if len(steps) > 1 and steps[0] in _CLAIM_PREFIXES:
        return steps, steps[1:]
    return (steps,)


def _masked(value: Any, path: _Path, above: str, hit: set[str]) -> Any:
    """Return `value` with what is at `path` masked: the same object if there is nothing."""
    if isinstance(value, list):
        items = [_masked(item, path, above, hit) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if not isinstance(value, Mapping):
        return value
    changed: dict[str, Any] = {}
    for key, below in _reached(value, path):
        here = f"{above}.{key}" if above else key
        if not below:
            hit.add(here)
            changed[key] = MASKED
        elif changed.get(key) != MASKED:
            inside = _masked(value[key], below, here, hit)
            if inside is not value[key]:
                changed[key] = inside
    return {**value, **changed} if changed else value


def _reached(value: Mapping[str, Any], path: _Path) -> Iterator[tuple[str, _Path]]:
    """Yield the keys of a map that a path leads to, and the rest of the path under each."""
    if path[0] == _ANY:
        yield from ((key, path[1:]) for key in value)
        return
    # A key may contain dots, and is then several steps.
    for count in range(1, len(path) + 1):
        key = ".".join(path[:count])
        if key in value:
            yield key, path[count:]


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
