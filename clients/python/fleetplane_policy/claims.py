"""What callers may send as context: JSON that means one thing, and not too much of it."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, Final
from unicodedata import is_normalized, normalize

from fleetplane_policy.errors import FieldViolation, MalformedInput

CLAIM_DEPTH_LIMIT: Final = 64
"""Levels of nesting of the claims; the claims themselves are level 1."""

CLAIM_BYTES_LIMIT: Final = 1 << 20
"""Bytes of the claims as compact JSON in UTF-8; a lower bound, escapes are not counted."""

_VIOLATIONS_LIMIT: Final = 20  # listed in one refusal; garbage has no end
_PLAIN_BYTES: Final = CLAIM_BYTES_LIMIT // 2  # clearly below the limit, whatever the punctuation
_PLAIN_COUNT: Final = 1_000  # punctuation of so many claims is far below the other half
_PLAIN_INTEGER: Final = 1 << 53  # exact in a double, and short
_STEP_LIMIT: Final = 100  # characters of one key shown in a refusal
_INTEGER_BITS: Final = 1024  # the range of a double, which is all that JSON over the wire can carry


def validate_claims(claims: Mapping[str, Any], *, field: str = "context") -> dict[str, Any]:
    """Check a caller's claims and return them with every string in Unicode NFC.

    `field` is the name used in refusals. Facts that agents wrote themselves (tags) deserve the same
    treatment once, when they are stored.

    Raises:
        MalformedInput: NaN or infinite numbers, numbers beyond a double, keys that are not strings
            or become equal, lone surrogates, other values than JSON has, deeper than 64 levels, or
            more than 1 MiB.
    """
    if _is_plain(claims):
        return dict(claims)
    walk = _Walk()
    clean = walk.mapping(claims, (None, field), 1)
    if walk.size > CLAIM_BYTES_LIMIT:
        raise MalformedInput.of(field, f"is larger than {CLAIM_BYTES_LIMIT} bytes")
    if walk.violations:
        raise MalformedInput(*walk.violations)
    return clean


def _is_plain(claims: Mapping[Any, Any]) -> bool:
    """Whether the claims are flat, ASCII and small: most are, and need no walk."""
    size = 0
    for key, value in claims.items():
        if type(key) is not str or not key.isascii():
            return False
        kind = type(value)
        if kind is str:
            if not value.isascii():
                return False
            size += len(value)
        elif kind is float:
            if not isfinite(value):
                return False
        elif kind is int:
            if not -_PLAIN_INTEGER < value < _PLAIN_INTEGER:
                return False
        elif value is not None and kind is not bool:
            return False
        size += len(key)
    return size < _PLAIN_BYTES and len(claims) < _PLAIN_COUNT


_Path = tuple["_Path | None", str]
"""Where the walk is: the path above and the last step; written out only in a refusal."""


def _shown(path: _Path | None) -> str:
    steps: list[str] = []
    while path is not None:
        path, step = path
        steps.append(step[:_STEP_LIMIT])
    return "".join(reversed(steps))


class _Walk:
    """One pass over the claims; stops descending once it is refused anyway."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []
        self.size = 0

    def refuse(self, path: _Path, why: str) -> None:
        if len(self.violations) < _VIOLATIONS_LIMIT:
            self.violations.append(FieldViolation(_shown(path), why))

    def may_enter(self, path: _Path, depth: int) -> bool:
        """Whether a container is neither too deep nor beyond the size that is refused anyway."""
        self.size += 2  # the brackets
        if depth > CLAIM_DEPTH_LIMIT:
            self.refuse(path, f"is nested deeper than {CLAIM_DEPTH_LIMIT} levels")
            return False
        return True

    def mapping(self, value: Mapping[Any, Any], path: _Path, depth: int) -> dict[str, Any]:
        clean: dict[str, Any] = {}
        if not self.may_enter(path, depth):
            return clean
        for key, item in value.items():
            if self.size > CLAIM_BYTES_LIMIT:
                break
            if not isinstance(key, str):
                self.refuse(path, f"has a key that is not a string: {key!r:.100}")
                continue
            name = self.string(key, path)
            if name in clean:
                self.refuse(path, f"has the key {name!r:.100} twice once normalised")
            self.size += 2  # the colon and the comma
            clean[name] = self.value(item, path, f".{name}", depth)
        return clean

    def sequence(self, values: Iterable[Any], path: _Path, depth: int) -> list[Any]:
        clean: list[Any] = []
        if not self.may_enter(path, depth):
            return clean
        for position, item in enumerate(values):
            if self.size > CLAIM_BYTES_LIMIT:
                break
            self.size += 1  # the comma
            clean.append(self.value(item, path, f"[{position}]", depth))
        return clean

    def value(self, value: Any, above: _Path, step: str, depth: int) -> Any:
        if isinstance(value, str):
            return self.string(value, (above, step))
        if value is None or isinstance(value, bool):
            self.size += 4  # null, true; false is one longer
            return value
        if isinstance(value, int | float):
            return self.number(value, (above, step))
        if isinstance(value, list | tuple):
            return self.sequence(value, (above, step), depth + 1)
        if isinstance(value, Mapping):
            return self.mapping(value, (above, step), depth + 1)
        self.refuse((above, step), f"is a {type(value).__name__}, which JSON does not have")
        return None

    def number(self, value: float, path: _Path) -> float:
        self.size += 1
        if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
            self.refuse(path, "is beyond the range of a double")
        elif isinstance(value, float) and not isfinite(value):
            self.refuse(path, "is not a finite number")
        return value

    def string(self, value: str, path: _Path) -> str:
        if value.isascii():
            self.size += len(value) + 2
            return value
        try:
            self.size += len(value.encode()) + 2
        except UnicodeEncodeError:
            self.refuse(path, "has a lone surrogate")
            return value
        return value if is_normalized("NFC", value) else normalize("NFC", value)
