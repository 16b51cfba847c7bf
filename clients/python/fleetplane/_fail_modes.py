"""What is answered while nobody can answer, and how decisions in this process are made."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAX_STALENESS: Final = 900.0
"""Seconds for which a copy of the policies may decide after the daemon was last heard."""


class FailMode(enum.StrEnum):
    """What a question to the policies is answered with while nobody can answer it."""

    RAISE = "raise"
    """Raise `Unavailable`, `DeadlineExceeded` or `StalePolicies`: the caller decides."""
    ALLOW = "allow"
    """Permit the action (fail open)."""
    DENY = "deny"
    """Refuse the action (fail closed)."""


FailModes = FailMode | str | Mapping[str, FailMode | str]
"""One for all actions, or by glob; the first that matches an action holds, none: RAISE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDecisions:
    """How an agent decides in its own process; see `FleetClient.local_policies`."""

    max_staleness: float = MAX_STALENESS
    """Seconds for which a copy may decide after the daemon was last heard."""
    fail_mode: FailModes = FailMode.RAISE
    """What is answered after that."""
    record: bool = True
    """Report the decisions to the daemon, for its log."""
