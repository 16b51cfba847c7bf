"""Turns a transaction into the keys and arguments of `scripts/commit.lua`."""

import os
from typing import Any, Final

import msgspec

from controlplane.services.audit.encoding import encode_entry
from controlplane.services.ports import (
    UNFOLLOWED,
    Append,
    ClearDeadline,
    Count,
    Delete,
    Put,
    Require,
    RequireClock,
    RequireExpired,
    ResetCount,
    SetDeadline,
    Transaction,
)
from controlplane.storage.counts import ceiling
from controlplane.storage.redis.codec import encode_value
from controlplane.storage.redis.keys import NamespaceKeys, keys_of

Arguments = tuple[list[str], list[str | bytes | int]]
"""(KEYS, ARGV)"""

REQUEST_TTL_MS: Final = 10 * 60 * 1000
"""How long the result of a request is remembered: the 10 minutes of `RequestKey`."""

_EXACT: Final = 2**53
"""Lua counts in doubles, exact below this. No revision gets there in a million years."""

_FIXED_KEYS: Final = 7
_FIXED_ARGS: Final = 8

_pack: Final = msgspec.msgpack.Encoder().encode


def random_token() -> str:
    """Return 64 random bits as text: a fingerprint or an epoch, unique enough for one history."""
    return os.urandom(8).hex()


def compile_commit(transaction: Transaction, changes_keep: int) -> Arguments:
    """Return the keys and arguments that make the commit script apply this transaction.

    `changes_keep` is the number of change entries that stay, about. Raises TypeError for a value
    that cannot be stored and ValueError for a negative `keep`.
    """
    names = keys_of(transaction.namespace)
    compiler = _Compiler(names)
    steps = [_COMPILE[type(step)](compiler, step) for step in transaction.steps]
    request = transaction.request
    keys = [
        names.rev,
        names.epoch,
        names.changes,
        names.audit,
        names.deadlines,
        names.request(request.request_id if request else ""),
        names.counts,
        *compiler.key_indexes,
    ]
    args: list[str | bytes | int] = [
        _pack((request is not None, steps, transaction.durable)),
        random_token(),
        _pack(compiler.touched),
        encode_entry(transaction.audit),
        request.digest if request else "",
        transaction.answer,
        changes_keep,
        REQUEST_TTL_MS,
        *compiler.values,
    ]
    return keys, args


class _Compiler:
    """Collects what the steps of one transaction have in common: keys, values, what they touch."""

    __slots__ = ("appended", "key_indexes", "names", "touched", "values")

    def __init__(self, names: NamespaceKeys) -> None:
        self.names = names
        self.key_indexes: dict[str, int] = {}
        self.values: list[bytes] = []
        self.touched: list[tuple[str, str]] = []
        self.appended: dict[str, int] = {}

    def put(self, step: Put) -> tuple[Any, ...]:
        where = self._where(step)
        self._touch(step)
        return (1, *where, self._value(step.value), step.fresh_generation)

    def delete(self, step: Delete) -> tuple[Any, ...]:
        self._touch(step)
        return (2, *self._where(step))

    def require(self, step: Require) -> tuple[Any, ...]:
        return (3, *self._where(step))

    def append(self, step: Append) -> tuple[Any, ...]:
        if step.keep < 0:
            raise ValueError(f"history {step.history!r} cannot keep {step.keep} entries")
        sequence = self.appended.get(step.history, 0)
        self.appended[step.history] = sequence + 1
        index = self._key(self.names.history(step.history))
        return (4, index, self._value(step.value), sequence, step.keep)

    def count(self, step: Count) -> tuple[Any, ...]:
        # A delta beyond what a counter can hold is refused by the script, whatever it is exactly.
        delta = max(-_EXACT, min(step.delta, _EXACT))
        return (8, step.counter, delta, ceiling(step.at_most))

    def _touch(self, step: Put | Delete) -> None:
        if step.collection not in UNFOLLOWED:
            self.touched.append((step.collection.value, step.key))

    def _where(self, step: Put | Delete | Require) -> tuple[Any, ...]:
        index = self._key(self.names.collections[step.collection])
        expect = step.expect
        return index, step.key, _expected(expect.revision), _expected(expect.generation)

    def _key(self, key: str) -> int:
        """Return the place of a key in KEYS, from 1 as Lua counts."""
        indexes = self.key_indexes
        return indexes.setdefault(key, _FIXED_KEYS + 1 + len(indexes))

    def _value(self, value: Any) -> int:
        """Return the place of a value in ARGV."""
        self.values.append(encode_value(value))
        return _FIXED_ARGS + len(self.values)


def _expected(number: int | None) -> int | bool:
    """Return what the script compares with; False for no condition.

    A number that Lua cannot hold exactly is one that no record has, and so is -1.
    """
    if number is None:
        return False
    return number if 0 <= number < _EXACT else -1


def _clamped(number: int) -> int:
    """Return a number that Lua holds exactly; no clock gets beyond it."""
    return max(-_EXACT, min(number, _EXACT))


_COMPILE: Final[dict[type, Any]] = {
    Put: _Compiler.put,
    Delete: _Compiler.delete,
    Require: _Compiler.require,
    Append: _Compiler.append,
    SetDeadline: lambda _, step: (5, step.instance_id, step.after_ms),
    ClearDeadline: lambda _, step: (6, step.instance_id),
    RequireExpired: lambda _, step: (7, step.instance_id),
    Count: _Compiler.count,
    ResetCount: lambda _, step: (9, step.counter),
    RequireClock: lambda _, step: (10, *map(_clamped, (step.not_before_ms, step.not_after_ms))),
}
