"""The values of approvals. All times are milliseconds since 1970 on the store's clock; 0: never.

PENDING -> GRANTED -> CONSUMED; PENDING -> DENIED, EXPIRED, CANCELLED or SUPERSEDED; GRANTED ->
EXPIRED, REVOKED or SUPERSEDED. `changes.py` and `votes.py` make the moves, and nobody else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

ANY_APPROVER: Final = "role:approver"
"""In place of a subject: everybody who has the permission to approve."""

MAX_LIFE_MS: Final = 24 * 60 * 60 * 1000
"""No approval is open to decisions for longer, however often it is extended."""

MAX_ENTRIES: Final = 200
"""Lines of one record: 16 stages of people, their delegations, and what they were advised."""

ROOM_FOR_VOTES: Final = 100
"""Lines of one record that opinions and prolongations leave to votes and delegations: nobody keeps
others from deciding by talking."""

MAX_WAITERS: Final = 50
"""Requesters of one approval besides the first; who comes after them is refused, for nobody who
asks may decide, and nobody could tell."""

MAX_COMMENT_BYTES: Final = 4_096
"""Of one comment."""


class ApprovalState(StrEnum):
    """Where an approval stands."""

    PENDING = "PENDING"
    GRANTED = "GRANTED"
    DENIED = "DENIED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    SUPERSEDED = "SUPERSEDED"
    REVOKED = "REVOKED"
    CONSUMED = "CONSUMED"

    @property
    def is_open(self) -> bool:
        """Whether anything can still become of it."""
        return self in {ApprovalState.PENDING, ApprovalState.GRANTED}


class ApprovalDecision(StrEnum):
    """What somebody says about an approval. Advice is recorded and never counted."""

    GRANT = "GRANT"
    DENY = "DENY"
    ADVISE = "ADVISE"


class EntryKind(StrEnum):
    """What a line of the record says."""

    REQUESTED = "REQUESTED"
    GRANT = "GRANT"
    DENY = "DENY"
    ADVICE = "ADVICE"
    DELEGATED = "DELEGATED"
    ESCALATED = "ESCALATED"
    EXTENDED = "EXTENDED"
    CANCELLED = "CANCELLED"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    SUPERSEDED = "SUPERSEDED"
    CONSUMED = "CONSUMED"
    STANDING_GRANT = "STANDING_GRANT"


VOTES: Final = frozenset({EntryKind.GRANT, EntryKind.DENY})
"""What counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundAction:
    """Exactly what is approved.

    `context` is what the requester said about it, without `ceilings`: those numbers, by their
    dotted paths, are upper bounds, and the action may come with less.
    """

    agent_id: str
    agent_name: str
    agent_version: str
    action: str
    session_id: str = ""
    tool: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    ceilings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """Who may vote in a stage as well, `after_ms` after the request."""

    after_ms: int
    eligible: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One group of people who have to agree; its name is unique within a requirement."""

    name: str
    quorum: int = 1
    deny_quorum: int = 1
    eligible: tuple[str, ...] = (ANY_APPROVER,)
    escalations: tuple[Escalation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What all policies together ask for; stages are decided in their order."""

    stages: tuple[Stage, ...]
    ttl_ms: int
    use_window_ms: int
    delay_ms: int = 0
    prevent_owner: bool = False
    irreversible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the record.

    Attributes:
        sequence: Place, from 1.
        kind: What.
        by: Who, as authenticated.
        at_ms: When.
        stage: Of a vote: in which stage.
        comment: In words.
        id: What made a vote idempotent; the consume_id of a use; the id of a standing grant.
        delegate: Of a delegation: to whom. Of a vote by delegation: from whom.
        until_ms: Of a delegation: how long it holds (0: as long as the approval is open). Of more
            time: until when.
        subjects: What the voter, or who delegated, was known by: who he was is judged again when
            policies have changed.
        person: Who made the API token that voted or delegated, if a person did; else empty.
        digest: SHA-256 over this line and the digest of the one before, in hexadecimal digits.
    """

    sequence: int
    kind: EntryKind
    by: str
    at_ms: int
    stage: str = ""
    comment: str = ""
    id: str = ""
    delegate: str = ""
    until_ms: int = 0
    subjects: tuple[str, ...] = ()
    person: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A question to people, bound to one action, and what they said.

    Attributes:
        approval_id: Identity.
        action: Exactly what is asked about.
        digest: Of the action; `sha256:` and hexadecimal digits.
        requirement: What has to be said.
        requested_by: Who asked first, as authenticated.
        unauthenticated: Nobody was authenticated then: nobody can be kept from deciding on what
            he has asked for himself.
        waiters: Others who asked for the same.
        agent_owner: By the agent's registration.
        policies: Ids of the policies that want it.
        decision_id: The decision that opened it.
        policy_revision: Of the policies then.
        opened_at_ms: When.
        expires_at_ms: Time to decide ends.
        not_before_ms: A grant cannot be used before; 0: at once.
        state: Where it stands.
        state_reason: Why, in words.
        entries: The record.
        granted_at_ms: When.
        use_until_ms: Time to use the grant ends; 0: it was not granted.
        ended_at_ms: When it reached a state that never changes; 0: it has not.
        standing_grant_id: What granted it in advance.
        consume_id: What used it up.
        escalated: How many escalations were noted.
        revision: The store's.
    """

    approval_id: str
    action: BoundAction
    digest: str
    requirement: Requirement
    requested_by: str
    opened_at_ms: int
    expires_at_ms: int
    not_before_ms: int = 0
    unauthenticated: bool = False
    waiters: tuple[str, ...] = ()
    agent_owner: str = ""
    policies: tuple[str, ...] = ()
    decision_id: str = ""
    policy_revision: int = 0
    state: ApprovalState = ApprovalState.PENDING
    state_reason: str = ""
    entries: tuple[Entry, ...] = ()
    granted_at_ms: int = 0
    use_until_ms: int = 0
    ended_at_ms: int = 0
    standing_grant_id: str = ""
    consume_id: str = ""
    escalated: int = 0
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Voter:
    """Somebody who decides.

    Attributes:
        name: As authenticated; what tells one voter from another.
        subjects: What bindings know the voter by.
        agent_name: The agent of this namespace that it is; empty: none.
        may_approve: Whether it has the permission.
        is_anybody: Nobody is authenticated here: the voter is whoever is asked for.
        person: Of an API token that a person has made: that person, for whom it votes; else empty.
    """

    name: str
    subjects: tuple[str, ...] = ()
    agent_name: str = ""
    may_approve: bool = True
    is_anybody: bool = False
    person: str = ""

    @property
    def names(self) -> frozenset[str]:
        """What tells the voter from others, whatever credential is shown."""
        return frozenset({self.name, self.person or self.name})


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingGrant:
    """A grant in advance: a few uses, for a few hours, of what matches.

    `agent_name` or `agent_id` says whose; `action` and `tool` are globs; `conditions` are those of
    a policy, over the context of the action.
    """

    grant_id: str
    agent_name: str
    agent_id: str
    action: str
    tool: str
    conditions: Mapping[str, Any]
    max_uses: int
    expires_at_ms: int
    reason: str
    created_by: str
    uses: int = 0
    revoked_at_ms: int = 0
    revoked_by: str = ""
    revision: int = 0
    created_at_ms: int = 0
