"""Approvals as tests make them."""

from typing import Any

from controlplane.domain.approvals.changes import opened
from controlplane.domain.approvals.digest import digest_of
from controlplane.domain.approvals.model import (
    Approval,
    BoundAction,
    Requirement,
    Stage,
    Voter,
)

NOW = 1_000_000
TTL = 900_000
WINDOW = 300_000
NS = "default"

ACTION = BoundAction(
    agent_id="a",
    agent_name="payer",
    agent_version="1.0.0",
    action="pay",
    context={"to": "ann"},
    ceilings={"estimated_cost": 2.5},
)


def requirement(*stages: Stage, **fields: Any) -> Requirement:
    named: dict[str, Any] = {
        "stages": stages or (Stage(name="approval"),),
        "ttl_ms": TTL,
        "use_window_ms": WINDOW,
    }
    return Requirement(**(named | fields))


def approval(*stages: Stage, **fields: Any) -> Approval:
    """Return one that `spiffe:payer` asked for at `NOW`; `fields` of it, or of its requirement."""
    of_requirement = {"delay_ms", "prevent_owner", "irreversible", "ttl_ms", "use_window_ms"}
    asked = {name: fields.pop(name) for name in of_requirement & fields.keys()}
    named: dict[str, Any] = {
        "approval_id": "apr-1",
        "action": ACTION,
        "digest": digest_of(NS, ACTION),
        "requirement": requirement(*stages, **asked),
        "requested_by": "spiffe:payer",
        "opened_at_ms": NOW,
        "expires_at_ms": 0,
    }
    return opened(Approval(**(named | fields)))


def voter(name: str, *subjects: str, **fields: Any) -> Voter:
    return Voter(name=name, subjects=(name, *subjects), **fields)
