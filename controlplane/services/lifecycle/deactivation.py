"""How an agent is stopped by decision: the commit, and what becomes of its tasks."""

from dataclasses import replace
from typing import Protocol

from controlplane.domain.agents import Agent
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    Expect,
    Put,
    RequestKey,
    Step,
    Transaction,
)


class HandedOver(Protocol):
    """What became of the tasks of an agent that was stopped."""

    @property
    def requeued(self) -> int:
        """Tasks that wait for, or went to, another agent."""

    @property
    def failed(self) -> int:
        """Tasks that failed because nobody else can take them."""


class HandOver(Protocol):
    """Gives the tasks of an agent that takes none any more to others; `task_recovery` does."""

    async def hand_over(
        self, namespace: str, agent_id: str, *, reason: str, actor: str
    ) -> HandedOver:
        """Take back its leases, and free or fail what waits for it.

        Stateless and repeatable: what is cut short is finished by the next sweep of any replica.
        """


def deactivation(
    namespace: str,
    before: Agent,
    after: Agent,
    *,
    reason: str,
    actor: str,
    method: str,
    request: RequestKey | None = None,
    holding: tuple[Step, ...] = (),
) -> Transaction:
    """Return the commit that stops an agent, on condition that it is as it was read.

    `holding`: further conditions.
    """
    unchanged = Expect(revision=before.revision)
    return Transaction(
        namespace=namespace,
        steps=(Put(Collection.AGENTS, before.agent_id, after, unchanged), *holding),
        audit=agent_audit(
            before,
            after,
            event="agent.deactivated",
            method=method,
            actor=actor,
            reason=reason,
            request=request,
        ),
        request=request,
        answer=before.agent_id,
    )


def agent_audit(
    before: Agent,
    after: Agent,
    *,
    event: str,
    method: str,
    actor: str,
    reason: str,
    request: RequestKey | None = None,
    **details: str,
) -> AuditEntry:
    """Return the audit entry of a decision about an agent's life."""
    moved = {"before": str(before.status), "after": str(after.status)}
    return AuditEntry(
        actor=actor,
        method=method,
        object=f"agents/{before.agent_id}",
        event=event,
        reason=reason,
        request_id=request.request_id if request is not None else "",
        details=(moved if before.status is not after.status else {}) | details,
    )


def stored_as(agent: Agent, committed: Committed) -> Agent:
    """Return an agent with what the store added to it."""
    return replace(agent, revision=committed.revision, updated_at_ms=committed.at_ms)
