"""Decisions as bytes: columns, with what repeats written once, compressed.

Thousands of decisions share a few answers and a few agents. A batch therefore holds a table of
answers and one of facts, and numbers into them; the rest are columns. MessagePack, then zlib's
fastest level where that pays: it halves the claims of real agents, and ids shrink to their tails.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from controlplane.domain.decisions.masking import Mask
from controlplane.domain.decisions.records import DecisionGap, DecisionRecord, Origin
from controlplane.domain.policies import Decision
from controlplane.services.policies.decision_log_port import DecisionBatch

_PLAIN: Final = b"\x01"
_COMPRESSED: Final = b"\x02"
"""First byte of a batch: its format. Readers refuse formats that they do not know."""

_WORTH_COMPRESSING: Final = 512  # bytes; below, zlib's header and its 20 us buy nothing
_FASTEST: Final = 1


class UnreadableBatch(Exception):
    """A batch that this release cannot read: a newer one packed it, or it is damaged."""


class PackedGap(msgspec.Struct, frozen=True, tag="gap", array_like=True):
    """A gap as it is stored."""

    gap: DecisionGap


class Columns(msgspec.Struct, frozen=True, tag="decisions", array_like=True):
    """Some decisions as they are stored; all columns are of one length."""

    origin: Origin
    caller: list[str]
    """Who asked, as a table."""
    answers: list[Decision]
    """What was answered, as a table."""
    facts: list[dict[str, Any]]
    """Of which agents, as a table."""
    decision_id: list[str]
    at_ms: list[int]
    answer_of: list[int]
    facts_of: list[int]
    caller_of: list[int]
    action: list[str]
    tool: list[str]
    session_id: list[str]
    claims: list[Mapping[str, Any]]
    latency_ns: list[int]
    policy_digest: list[str]
    """Of the policies that decided, as a table."""
    digest_of: list[int]
    """Of each answer in the table."""
    sample_rate: dict[int, float] = {}
    """By row, where it is not 1."""
    masked_paths: dict[int, tuple[str, ...]] = {}
    """By row, where there are any."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final[msgspec.msgpack.Decoder[Columns | PackedGap]] = msgspec.msgpack.Decoder(
    Columns | PackedGap
)


def pack(content: Columns | PackedGap) -> bytes:
    """Return some decisions, or a gap, as bytes."""
    plain = _encode(content)
    if len(plain) < _WORTH_COMPRESSING:
        return _PLAIN + plain
    return _COMPRESSED + zlib.compress(plain, _FASTEST)


def unpack(packed: bytes) -> Columns | PackedGap:
    """Return what `pack` was given.

    Raises:
        UnreadableBatch: of a format that is not known here, or damaged.
    """
    try:
        if packed[:1] == _COMPRESSED:
            return _decoder.decode(zlib.decompress(packed[1:]))
        if packed[:1] == _PLAIN:
            return _decoder.decode(packed[1:])
    except (msgspec.MsgspecError, zlib.error) as error:
        raise UnreadableBatch(str(error)) from error
    raise UnreadableBatch(f"format {packed[:1].hex() or 'missing'}")


class ColumnsBuilder:
    """Gathers decisions into columns."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        # By `id`; the lists keep those ids taken.
        self._answers: dict[int, int] = {}
        self._decisions: list[Decision] = []
        self._agents: dict[int, int] = {}
        self._facts: list[Mapping[str, Any]] = []
        self._callers: dict[str, int] = {}
        self._digests: dict[str, int] = {}
        self._digest_of: list[int] = []
        self.decision_id: list[str] = []
        self.at_ms: list[int] = []
        self.answer_of: list[int] = []
        self.facts_of: list[int] = []
        self.caller_of: list[int] = []
        self.action: list[str] = []
        self.tool: list[str] = []
        self.session_id: list[str] = []
        self.claims: list[Mapping[str, Any]] = []
        self.latency_ns: list[int] = []
        self.sample_rate: dict[int, float] = {}
        self.masked_paths: dict[int, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self.decision_id)

    def answers(
        self, decisions: Sequence[Decision], digest_of: Callable[[int], str]
    ) -> Iterable[int]:
        """Return the numbers of answers; equal ones are usually one object, and written once.

        `digest_of` returns what the policies were that gave one of them, by its place.
        """
        known, keys = self._answers, list(map(id, decisions))
        if not known.keys() >= set(keys):
            for place, key in enumerate(keys):
                if key not in known:
                    known[key] = len(known)
                    self._decisions.append(decisions[place])
                    digest, digests = digest_of(place), self._digests
                    self._digest_of.append(digests.setdefault(digest, len(digests)))
        return map(known.__getitem__, keys)

    def agents(self, facts: Sequence[Mapping[str, Any]]) -> Iterable[int]:
        """Return the numbers of the facts of agents, which are one object until they change."""
        known, keys = self._agents, list(map(id, facts))
        if not known.keys() >= set(keys):
            for key, one in zip(keys, facts, strict=True):
                if key not in known:
                    known[key] = len(known)
                    self._facts.append(one)
        return map(known.__getitem__, keys)

    def mask(self, mask: Mask, rows: Iterable[int]) -> None:
        """Take out of the claims of some rows what must not be stored."""
        for row in rows:
            self.claims[row], paths = mask.apply(self.claims[row])
            if paths:
                self.masked_paths[row] = paths

    def caller(self, name: str) -> int:
        """Return the number of a caller."""
        return self._callers.setdefault(name, len(self._callers))

    def batch(self, source: str, sequence: int) -> DecisionBatch:
        """Return what was gathered, at least one decision, as a batch."""
        columns = Columns(
            origin=self._origin,
            caller=list(self._callers),
            answers=[_unexplained(decision) for decision in self._decisions],
            facts=[dict(facts) for facts in self._facts],
            decision_id=self.decision_id,
            at_ms=self.at_ms,
            answer_of=self.answer_of,
            facts_of=self.facts_of,
            caller_of=self.caller_of,
            action=self.action,
            tool=self.tool,
            session_id=self.session_id,
            claims=self.claims,
            latency_ns=self.latency_ns,
            policy_digest=list(self._digests),
            digest_of=self._digest_of,
            sample_rate=self.sample_rate,
            masked_paths=self.masked_paths,
        )
        return DecisionBatch(
            source=source,
            sequence=sequence,
            count=len(self),
            first_ms=min(self.at_ms),
            last_ms=max(self.at_ms),
            packed=pack(columns),
        )


def gap_batch(gap: DecisionGap, source: str, sequence: int) -> DecisionBatch:
    """Return a gap as a batch."""
    return DecisionBatch(
        source=source,
        sequence=sequence,
        count=0,
        first_ms=gap.first_ms,
        last_ms=gap.last_ms,
        packed=pack(PackedGap(gap)),
    )


def record_of(columns: Columns, row: int) -> DecisionRecord:
    """Return one row as a record."""
    answer = columns.answer_of[row]
    return DecisionRecord(
        decision_id=columns.decision_id[row],
        at_ms=columns.at_ms[row],
        action=columns.action[row],
        decision=columns.answers[answer],
        tool=columns.tool[row],
        session_id=columns.session_id[row],
        claims=columns.claims[row],
        facts=columns.facts[columns.facts_of[row]],
        caller=columns.caller[columns.caller_of[row]],
        origin=columns.origin,
        latency_ns=columns.latency_ns[row],
        policy_digest=columns.policy_digest[columns.digest_of[answer]],
        sample_rate=columns.sample_rate.get(row, 1.0),
        masked_paths=columns.masked_paths.get(row, ()),
    )


def _unexplained(decision: Decision) -> Decision:
    """Return a decision as it is kept: explanations can be made again."""
    return decision if decision.explanation is None else replace(decision, explanation=None)
