"""Verifies the audit: fed with seals and the entries under them, in order, it names what is wrong.

Works alike on a store and on an exported file. It remembers one head, whatever the length of the
audit. The first problem ends it: behind a broken link nothing is proven.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from controlplane.domain.audit.chain import (
    NO_LEAF,
    Keys,
    Seal,
    StoredEntry,
    genesis,
    heads_through,
    leaf_of,
)
from controlplane.domain.audit.keeping import (
    DETAIL_HEAD,
    DETAIL_SEQUENCE,
    EVENT_TRIMMED,
    Checkpoint,
)

_TRIM_MARK: Final = EVENT_TRIMMED.encode()


class ProblemKind(StrEnum):
    """What is wrong with the audit."""

    ENTRY_ALTERED = "entry_altered"
    """The entry is not the one that was sealed, or there is one more under its number."""
    ENTRY_MISSING = "entry_missing"
    SEAL_ALTERED = "seal_altered"
    """The seal contradicts itself or the one before it."""
    SEAL_MISSING = "seal_missing"
    HEAD_DIFFERS = "head_differs"
    """The chain is whole, but is not the one whose head was remembered."""
    UNKNOWN_KEY = "unknown_key"
    """The seal was made with a key that is not known here."""
    TRIM_UNPROVEN = "trim_unproven"
    """The audit begins later than with entry 1, and no entry says who trimmed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong, and with which sequence it begins."""

    kind: ProblemKind
    sequence: int
    detail: str


class Verification:
    """One pass over the audit of a namespace."""

    def __init__(
        self,
        namespace: str,
        keys: Keys,
        *,
        base: Checkpoint | None = None,
        expected: Checkpoint | None = None,
        confirmed: Iterable[Checkpoint] = (),
    ) -> None:
        """Begin.

        Args:
            namespace: Whose audit it is: the first head depends on it.
            keys: What heads may be made with.
            base: Where it begins; None: before entry 1.
            expected: A checkpoint that somebody remembers; its sequence 0: anywhere.
            confirmed: Checkpoints of exports that the plane was told of, behind `base`.
        """
        self._keys = keys
        self._confirmed = {checkpoint.sequence: checkpoint.head for checkpoint in confirmed}
        self._base = base
        self._expected = expected
        self._expectation_met = expected is None or (
            base is not None
            and expected.head == base.head
            and expected.sequence in {0, base.sequence}
        )
        self._head = genesis(namespace) if base is None else bytes.fromhex(base.head)
        self._key_seen = False
        self.verified_through = 0 if base is None else base.sequence
        """Sequence of the last entry that is proven."""
        self.keyless_through = 0
        """Sequence of the last proven entry whose seal was made without a key."""
        self.trim_proven = base is None
        """Whether an entry says that the audit was trimmed through its base."""

    @property
    def checkpoint(self) -> Checkpoint:
        """What to remember of it."""
        return Checkpoint(sequence=self.verified_through, head=self._head.hex())

    def seal(self, seal: Seal, entries: Sequence[StoredEntry]) -> Problem | None:
        """Verify the next seal and the entries under it; None: all of them are proven.

        Args:
            seal: The seal.
            entries: What is stored from its first to its last sequence, in the order of the store.
        """
        problem = self._seal_problem(seal) or self._entry_problem(seal, entries)
        if problem is not None:
            return problem
        self._look_for_trim(entries)
        key = self._keys.named(seal.key_id)
        problem = None
        for sequence, head in heads_through(seal, key):
            if sequence > self.verified_through:
                self.verified_through, self._head = sequence, head
                problem = self._expect(sequence, head)
                if problem is not None:
                    return problem
        self._key_seen = self._key_seen or bool(seal.key_id)
        if not seal.key_id:
            self.keyless_through = seal.last
        return None

    def tail(self, entries: Sequence[StoredEntry], first: int, last: int) -> Problem | None:
        """Verify that entries which are not sealed yet are there, from `first` to `last`."""
        self._look_for_trim(entries)
        for sequence, entry in _paired(entries, first, last):
            if entry is None:
                return _missing(sequence, "and was never sealed")
            if entry.sequence != sequence:
                return _added(entry.sequence)
        return None

    def end(self) -> Problem | None:
        """Return what is wrong with the whole, now that the last seal was verified."""
        lost = [sequence for sequence in self._confirmed if sequence > self.verified_through]
        if lost:
            return Problem(
                kind=ProblemKind.HEAD_DIFFERS,
                sequence=self.verified_through + 1,
                detail=f"the audit ends before entry {max(lost)}, through which it was exported",
            )
        expected = self._expected
        if expected is not None and not self._expectation_met:
            beyond = expected.sequence > self.verified_through
            where = self.verified_through + 1 if beyond else expected.sequence
            what = "the audit ends before it" if beyond else "no entry has this head"
            return Problem(
                kind=ProblemKind.HEAD_DIFFERS,
                sequence=where,
                detail=f"the head that was expected is not there: {what}",
            )
        if not self.trim_proven and self._base is not None:
            return Problem(
                kind=ProblemKind.TRIM_UNPROVEN,
                sequence=1,
                detail=f"nothing is stored through entry {self._base.sequence}, and no entry says"
                " that it was trimmed",
            )
        return None

    def _seal_problem(self, seal: Seal) -> Problem | None:  # noqa: PLR0911 - one per way to be wrong
        wanted = self.verified_through + 1
        straddles = self._base is not None and self.verified_through == self._base.sequence
        if seal.first > wanted:
            return Problem(
                kind=ProblemKind.SEAL_MISSING,
                sequence=wanted,
                detail=f"the next seal begins with entry {seal.first}",
            )
        if not seal.is_whole or seal.last < wanted or (seal.first < wanted and not straddles):
            return _altered(seal, "it does not cover what it should")
        if seal.key_id not in self._keys:
            return Problem(
                kind=ProblemKind.UNKNOWN_KEY,
                sequence=max(seal.first, wanted),
                detail=f"the seal was made with the key {seal.key_id}, which is not known here",
            )
        if self._key_seen and not seal.key_id:
            return _altered(seal, "it was made without a key, after others with one")
        if seal.first == wanted and seal.previous != self._head:
            return _altered(seal, "it does not continue the one before it")
        head = seal.previous
        for sequence, after in heads_through(seal, self._keys.named(seal.key_id)):
            head = after
            if sequence == wanted - 1 and head != self._head:
                return _altered(seal, "it does not continue what was trimmed")
        if head != seal.head:
            return _altered(seal, "its head does not follow from its leaves")
        return None

    def _entry_problem(self, seal: Seal, entries: Sequence[StoredEntry]) -> Problem | None:
        first = max(seal.first, self.verified_through + 1)
        for given in entries:
            if not first <= given.sequence <= seal.last:
                return _stray(given.sequence, seal)
        for sequence, entry in _paired(entries, first, seal.last):
            leaf = seal.leaf(sequence)
            if leaf == NO_LEAF:
                return _missing(sequence, "and was so when it should have been sealed")
            if entry is None:
                return _missing(sequence, "although it was sealed")
            if entry.sequence != sequence:
                return _added(entry.sequence)
            if leaf_of(entry) != leaf:
                return Problem(
                    kind=ProblemKind.ENTRY_ALTERED,
                    sequence=sequence,
                    detail="the entry is not the one that was sealed",
                )
        return None

    def _expect(self, sequence: int, head: bytes) -> Problem | None:
        if self._confirmed.get(sequence, head.hex()) != head.hex():
            return Problem(
                kind=ProblemKind.HEAD_DIFFERS,
                sequence=sequence,
                detail="the head is not the one that an export was confirmed with: the audit was"
                " sealed anew",
            )
        expected = self._expected
        if expected is None or self._expectation_met:
            return None
        if head.hex() == expected.head and expected.sequence in {0, sequence}:
            self._expectation_met = True
        elif sequence == expected.sequence:
            return Problem(
                kind=ProblemKind.HEAD_DIFFERS,
                sequence=sequence,
                detail="the head is not the one that was expected: the audit was sealed anew",
            )
        return None

    def _look_for_trim(self, entries: Sequence[StoredEntry]) -> None:
        if self.trim_proven or self._base is None:
            return
        base = self._base
        self.trim_proven = any(
            _TRIM_MARK in entry.data and _trimmed_through(entry.data) == base for entry in entries
        )


def _paired(
    entries: Sequence[StoredEntry], first: int, last: int
) -> Iterator[tuple[int, StoredEntry | None]]:
    """Yield each sequence with its entry, or None; entries that do not belong there come as well.

    An entry whose sequence is another one than that it comes with is one too many.
    """
    relevant = iter([entry for entry in entries if first <= entry.sequence <= last])
    entry = next(relevant, None)
    for sequence in range(first, last + 1):
        if entry is None or entry.sequence > sequence:
            yield sequence, None
            continue
        yield sequence, entry
        entry = next(relevant, None)
        while entry is not None and entry.sequence <= sequence:
            yield sequence + 1, entry
            entry = next(relevant, None)


def _trimmed_through(data: bytes) -> Checkpoint | None:
    """Return through where an entry says that the audit was trimmed; None if it does not."""
    try:
        entry = json.loads(data)
        details = entry["details"]
        if entry["event"] != EVENT_TRIMMED:
            return None
        return Checkpoint(sequence=int(details[DETAIL_SEQUENCE]), head=details[DETAIL_HEAD])
    except (ValueError, TypeError, KeyError):
        return None


def _missing(sequence: int, how: str) -> Problem:
    return Problem(
        kind=ProblemKind.ENTRY_MISSING, sequence=sequence, detail=f"the entry is missing, {how}"
    )


def _added(sequence: int) -> Problem:
    return Problem(
        kind=ProblemKind.ENTRY_ALTERED,
        sequence=sequence,
        detail="there is another entry under the same number",
    )


def _stray(sequence: int, seal: Seal) -> Problem:
    return Problem(
        kind=ProblemKind.ENTRY_ALTERED,
        sequence=sequence,
        detail=f"the entry stands among those of the seal through entry {seal.last}, which does not"
        " cover it",
    )


def _altered(seal: Seal, how: str) -> Problem:
    return Problem(
        kind=ProblemKind.SEAL_ALTERED,
        sequence=seal.first,
        detail=f"the seal through entry {seal.last} was altered: {how}",
    )
