"""What is asked of the policies, and what they answer, under the id by which it is found again."""

from collections.abc import Awaitable, Mapping
from typing import Any, NamedTuple

from controlplane.domain.policies import Decision, PolicySet, Request


class Question(NamedTuple):
    """One action that somebody wants to take."""

    agent_id: str
    action: str
    claims: Mapping[str, Any]
    tool: str = ""
    session_id: str = ""
    """The conversation or job it belongs to, for the record; policies do not see it."""
    is_checked: bool = False
    """Whether the claims have passed `validate_claims` already, while they were read."""


class Answered(NamedTuple):
    """A decision under its own id, with what was judged."""

    decision: Decision
    decision_id: str
    request: Request
    rules: PolicySet
    """What decided."""
    session_id: str = ""
    recorded: Awaitable[None] | None = None
    """To be awaited before the answer leaves; it fails with StoreUnavailable if the decision has to
    be in the log first, and is not."""
