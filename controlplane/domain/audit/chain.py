"""The arithmetic of the audit: leaves, heads, seals.

    leaf(i)  = SHA-256(tag, sequence, time, stored bytes), each part with its length before it
    head(0)  = SHA-256(tag, namespace)
    head(i)  = SHA-256(head(i-1) + leaf(i)), or HMAC-SHA-256 of the same with a key

A seal covers consecutive entries and holds their leaves, the head before the first and the head
after the last of them. Whoever alters an entry breaks its leaf; whoever alters a leaf breaks the
head; whoever makes all heads anew has another head than those who remember one, and with a key
cannot make any. The leaves stay with the seal so that the chain can be followed through entries
that were trimmed.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

DIGEST_BYTES: Final = 32
"""Of a leaf or a head: SHA-256."""

NO_LEAF: Final = bytes(DIGEST_BYTES)
"""In place of a leaf: the entry was missing already when it should have been sealed."""

LEAST_KEY_BYTES: Final = 32
"""Of a key: shorter ones are weaker than the digest."""

KEY_ID_CHARACTERS: Final = 12
"""Of the name of a key: 48 bits tell the keys of one installation apart."""

_LEAF_TAG: Final = b"fleetplane audit entry 1"
_GENESIS_TAG: Final = b"fleetplane audit head 1"
_KEY_TAG: Final = b"fleetplane audit key 1"
_LENGTH_BYTES: Final = 4
_NUMBER_BYTES: Final = 8
_LARGEST: Final = 2 ** (8 * _NUMBER_BYTES) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """One entry as the store holds it.

    Attributes:
        sequence: Its number: the revision of the commit that wrote it. The first is 1.
        at_ms: When, in milliseconds since 1970 on the store's clock.
        data: What was written, to the byte.
    """

    sequence: int
    at_ms: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What fixes the entries `first` to `last`.

    Attributes:
        first: Sequence of the first entry it covers.
        last: Of the last one.
        previous: Head before the first entry.
        head: Head after the last one.
        leaves: One digest of 32 bytes for each entry, in order; `NO_LEAF` for one that was missing.
        key_id: Name of the key that the heads were made with; empty: none.
    """

    first: int
    last: int
    previous: bytes
    head: bytes
    leaves: bytes
    key_id: str = ""

    @property
    def count(self) -> int:
        """How many entries it covers."""
        return self.last - self.first + 1

    def leaf(self, sequence: int) -> bytes:
        """Return the leaf of an entry that it covers."""
        start = (sequence - self.first) * DIGEST_BYTES
        return self.leaves[start : start + DIGEST_BYTES]

    @property
    def is_whole(self) -> bool:
        """Whether it has as many leaves as it should, and digests of the right size."""
        return (
            1 <= self.first <= self.last
            and len(self.leaves) == self.count * DIGEST_BYTES
            and len(self.previous) == len(self.head) == DIGEST_BYTES
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key that heads are made with. Who has it can seal; who does not can not re-seal."""

    secret: bytes
    key_id: str

    @classmethod
    def of(cls, secret: bytes) -> Self:
        """Return the key with this secret, under the name that follows from it."""
        name = hmac.digest(secret, _KEY_TAG, "sha256").hex()[:KEY_ID_CHARACTERS]
        return cls(secret=secret, key_id=name)

    def __repr__(self) -> str:
        return f"Key({self.key_id})"


class Keys:
    """The keys of an installation: the first one seals, all of them verify."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        """Know `keys`; none: seals are made, and can be verified, without one."""
        ordered = tuple(keys)
        self.sealing: Key | None = ordered[0] if ordered else None
        """What new seals are made with; None: without a key."""
        self._known: Mapping[str, Key] = MappingProxyType({key.key_id: key for key in ordered})

    def __contains__(self, key_id: str) -> bool:
        return not key_id or key_id in self._known

    def named(self, key_id: str) -> Key | None:
        """Return a key by its name; None for the empty name.

        Raises:
            KeyError: there is no such key here.
        """
        return self._known[key_id] if key_id else None


NO_KEYS: Final = Keys()
"""Of an installation whose audit is sealed without a key."""


def leaf_of(entry: StoredEntry) -> bytes:
    """Return the digest that stands for an entry."""
    return hashlib.sha256(
        b"".join(
            (
                _sized(_LEAF_TAG),
                _number(entry.sequence),
                _number(entry.at_ms),
                _sized(entry.data),
            )
        )
    ).digest()


def genesis(namespace: str) -> bytes:
    """Return the head before the first entry of a namespace."""
    return hashlib.sha256(_sized(_GENESIS_TAG) + _sized(namespace.encode())).digest()


def next_head(head: bytes, leaf: bytes, key: Key | None) -> bytes:
    """Return the head after one more leaf."""
    if key is None:
        return hashlib.sha256(head + leaf).digest()
    return hmac.digest(key.secret, head + leaf, "sha256")


def heads_through(seal: Seal, key: Key | None) -> Iterator[tuple[int, bytes]]:
    """Yield (sequence, head after it) for every entry of a seal, as its leaves say."""
    head = seal.previous
    for sequence in range(seal.first, seal.last + 1):
        head = next_head(head, seal.leaf(sequence), key)
        yield sequence, head


def seal_of(first: int, leaves: Iterable[bytes], previous: bytes, key: Key | None) -> Seal:
    """Return the seal over consecutive entries with these leaves (at least one)."""
    joined, head, count = bytearray(), previous, 0
    for leaf in leaves:
        joined += leaf
        head = next_head(head, leaf, key)
        count += 1
    return Seal(
        first=first,
        last=first + count - 1,
        previous=previous,
        head=head,
        leaves=bytes(joined),
        key_id="" if key is None else key.key_id,
    )


def _sized(part: bytes) -> bytes:
    return len(part).to_bytes(_LENGTH_BYTES, "big") + part


def _number(value: int) -> bytes:
    # What does not fit was never written by us, and its leaf is another one in any case.
    return min(max(value, 0), _LARGEST).to_bytes(_NUMBER_BYTES, "big")
