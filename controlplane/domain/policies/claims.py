"""What callers may send as context: JSON that means one thing, and not too much of it."""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, Final
from unicodedata import is_normalized, normalize

from controlplane.domain.errors import FieldViolation, InvalidArgument

CLAIM_DEPTH_LIMIT: Final = 64
"""Levels of nesting of the claims; the claims themselves are level 1."""

CLAIM_BYTES_LIMIT: Final = 1 << 20
"""Bytes of the claims as compact JSON in UTF-8; a lower bound, escapes are not counted."""

_VIOLATIONS_LIMIT: Final = 20  # listed in one refusal; garbage has no end
_INTEGER_BITS: Final = 1024  # the range of a double, which is all that JSON over the wire can carry


def validate_claims(claims: Mapping[str, Any], *, field: str = "context") -> dict[str, Any]:
    """Check a caller's claims and return them with every string in Unicode NFC.

    `field` is the name used in refusals. Facts that agents wrote themselves (tags) deserve the same
    treatment once, when they are stored.

    Raises:
        InvalidArgument: NaN or infinite numbers, numbers beyond a double, keys that are not strings
            or become equal, lone surrogates, other values than JSON has, deeper than 64 levels, or
            more than 1 MiB.
    """
    walk = _Walk()
    clean = walk.mapping(claims, field, 1)
    if walk.size > CLAIM_BYTES_LIMIT:
        raise InvalidArgument.of(field, f"is larger than {CLAIM_BYTES_LIMIT} bytes")
    if walk.violations:
        raise InvalidArgument(*walk.violations)
    return clean


class _Walk:
    """One pass over the claims; stops descending once it is refused anyway."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []
        self.size = 0

    def refuse(self, field: str, why: str) -> None:
        if len(self.violations) < _VIOLATIONS_LIMIT:
            self.violations.append(FieldViolation(field, why))

    def mapping(self, value: Mapping[Any, Any], field: str, depth: int) -> dict[str, Any]:
        clean: dict[str, Any] = {}
        for key, item in self.items(value.items(), field, depth):
            if not isinstance(key, str):
                self.refuse(field, f"has a key that is not a string: {key!r:.100}")
                continue
            name = self.string(key, field)
            if name in clean:
                self.refuse(field, f"has the key {name!r:.100} twice once normalised")
            clean[name] = self.value(item, f"{field}.{name:.100}", depth)
            self.size += 1  # the colon
        return clean

    def items(self, values: Any, field: str, depth: int) -> Iterator[Any]:
        """The elements of a container while it is neither too deep nor too large."""
        self.size += 2  # the brackets
        if depth > CLAIM_DEPTH_LIMIT:
            self.refuse(field, f"is nested deeper than {CLAIM_DEPTH_LIMIT} levels")
            return
        for value in values:
            if self.size > CLAIM_BYTES_LIMIT:
                return
            self.size += 1  # the comma
            yield value

    def value(self, value: Any, field: str, depth: int) -> Any:
        if isinstance(value, str):
            return self.string(value, field)
        if value is None or isinstance(value, bool):
            self.size += 4  # null, true; false is one longer
            return value
        if isinstance(value, int | float):
            return self.number(value, field)
        if isinstance(value, Mapping):
            return self.mapping(value, field, depth + 1)
        if isinstance(value, list | tuple):
            items = enumerate(self.items(value, field, depth + 1))
            return [self.value(item, f"{field}[{i}]", depth + 1) for i, item in items]
        self.refuse(field, f"is a {type(value).__name__}, which JSON does not have")
        return None

    def number(self, value: float, field: str) -> float:
        self.size += 1
        if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
            self.refuse(field, "is beyond the range of a double")
        elif isinstance(value, float) and not isfinite(value):
            self.refuse(field, "is not a finite number")
        return value

    def string(self, value: str, field: str) -> str:
        if value.isascii():
            self.size += len(value) + 2
            return value
        try:
            self.size += len(value.encode()) + 2
        except UnicodeEncodeError:
            self.refuse(field, "has a lone surrogate")
            return value
        return value if is_normalized("NFC", value) else normalize("NFC", value)
