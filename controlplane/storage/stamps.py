"""What the store knows about a record, filled into the fields its value has for it.

A domain value may carry `revision`, `generation`, `registered_at_ms` or `created_at_ms`, and
`updated_at_ms`. Whatever its writer put there, the store's own numbers are what readers see.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any, Final

_SOURCES: Final = {
    "revision": 0,
    "generation": 1,
    "updated_at_ms": 2,
    "registered_at_ms": 3,
    "created_at_ms": 3,
}
"""Field of a value -> place in (revision, generation, updated_at_ms, created_at_ms)."""

Stamps = tuple[int, int, int, int]
"""(revision, generation, updated_at_ms, created_at_ms)"""


_places_of: Final[dict[type, tuple[tuple[str, int], ...]]] = {}


def _places(value_type: type) -> tuple[tuple[str, int], ...]:
    """Return (field, place in `Stamps`) of every field of the type that the store fills in."""
    known = _places_of.get(value_type)
    if known is None:
        names = [f.name for f in fields(value_type)] if is_dataclass(value_type) else []
        known = tuple((name, _SOURCES[name]) for name in names if name in _SOURCES)
        _places_of[value_type] = known
    return known


def stamped(value: Any, stamps: Stamps) -> Any:
    """Return a copy of the value with the store's numbers.

    Values without such fields, text for example, are their own stamped form.
    """
    places = _places(type(value))
    if not places:
        return value
    return replace(value, **{name: stamps[place] for name, place in places})


def stamp_in_place(value: Any, stamps: Stamps) -> None:
    """Write the store's numbers into a value that nobody else has seen yet.

    Only for a decoder that just made the (frozen) value: it saves the copy, which costs more than
    the decoding itself.
    """
    for name, place in _places(type(value)):
        object.__setattr__(value, name, stamps[place])
