"""What the log says about decisions: one that was made, or that some are missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from controlplane.domain.policies import Decision

MASKED: Final = "(masked)"
"""Stands in a record where a value was that must not be stored."""

_ID_PARTS: Final = 4  # `dec`, when, who, which
_TIME_DIGITS: Final = 12
_SOURCE_DIGITS: Final = 8
_COUNT_DIGITS: Final = 16  # more than anybody counts to; eight and more are written
_HEX: Final = frozenset("0123456789abcdef")


class Origin(StrEnum):
    """Who made a decision: the control plane, or the agent in its own process."""

    SERVER = "SERVER"
    LOCAL = "LOCAL"


class GapCause(StrEnum):
    """Why decisions are missing.

    OVERFLOW: more were made than could be kept until the store took them. NOT_REPORTED: the agent
    that made them could not report them.
    """

    OVERFLOW = "OVERFLOW"
    NOT_REPORTED = "NOT_REPORTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One decision as it was recorded.

    `facts` and `claims` are what the policies judged; masked claims are the text `MASKED`, and
    `masked_paths` names them. `at_ms` is the decision's clock: the store's, of LOCAL ones the
    agent's. `latency_ns` is what the policies took, in a batch the average of its items.
    `sample_rate` is the share of such decisions that is recorded, above 0 and at most 1.
    """

    decision_id: str
    at_ms: int
    action: str
    decision: Decision
    tool: str = ""
    session_id: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    caller: str = ""
    origin: Origin = Origin.SERVER
    latency_ns: int = 0
    policy_digest: str = ""
    sample_rate: float = 1.0
    masked_paths: tuple[str, ...] = ()

    @property
    def agent_id(self) -> str:
        """Who wanted to act."""
        return str(self.facts.get("agent_id", ""))

    @property
    def agent_name(self) -> str:
        """Its name then."""
        return str(self.facts.get("agent_name", ""))

    @property
    def agent_version(self) -> str:
        """Its version then."""
        return str(self.facts.get("agent_version", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionGap:
    """Decisions that were made and not recorded, the first and the last of them at those times."""

    number_lost: int
    first_ms: int
    last_ms: int
    cause: GapCause
    source: str
    """Which replica or agent lost them."""


class DecisionName(NamedTuple):
    """What the id of a decision says."""

    at_ms: int
    source: str


def parse_decision_id(text: str) -> DecisionName | None:
    """Return what an id says; None if it is none.

    `dec-<milliseconds since 1970, 12 hex digits>-<who decided, 8>-<count, 1-16>`.
    """
    parts = text.split("-")
    if len(parts) != _ID_PARTS or parts[0] != "dec":
        return None
    _, time, source, number = parts
    if len(time) != _TIME_DIGITS or len(source) != _SOURCE_DIGITS:
        return None
    if not 0 < len(number) <= _COUNT_DIGITS or not _HEX.issuperset(time + source + number):
        return None
    return DecisionName(int(time, 16), source)
