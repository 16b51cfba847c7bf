"""Retires an agent for good, with its instances.

A registration holds the agent's record to the revision it saw, as the retirement does. So whoever
was registered before the agent was retired is known as soon as this replica has followed that
commit, and is removed then; after it nobody is registered any more.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.identity import Caller
from controlplane.services.deactivation import agent_audit
from controlplane.services.families import caught_up
from controlplane.services.ports import (
    ClearDeadline,
    Collection,
    Delete,
    Expect,
    Ledger,
    Put,
    RequestKey,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

MAX_REMOVED_AT_ONCE: Final = 1_000
"""Instances removed in one commit: a few milliseconds of the store."""


def retirement(
    view: NamespaceView, agent: Agent, reason: str, request: RequestKey | None, caller: Caller
) -> tuple[Agent, int, Transaction]:
    """Return the retired agent, how many instances go with it, and the commit.

    Raises:
        InvalidTransition: the agent works.
    """
    after = replace(agent.moved(AgentStatus.DECOMMISSIONED, reason), draining=False)
    removed = _instances(view, agent.agent_id)
    unchanged = Expect(revision=agent.revision)
    transaction = Transaction(
        namespace=view.name,
        steps=(Put(Collection.AGENTS, agent.agent_id, after, unchanged), *_removal(removed)),
        audit=agent_audit(
            agent,
            after,
            event="agent.decommissioned",
            method="Decommission",
            actor=caller.name,
            reason=reason,
            request=request,
            instances=str(len(removed)),
        ),
        request=request,
        answer=agent.agent_id,
    )
    return after, len(removed), transaction


async def remove_left(
    ledger: Ledger, read_model: ReadModel, agent: Agent, view: NamespaceView, caller: Caller
) -> int:
    """Remove what instances a retired agent still has; return how many.

    `view` has followed the retirement. Repeatable: what is cut short is done by another call.
    """
    removed = 0
    while some := _instances(view, agent.agent_id):
        transaction = Transaction(
            namespace=view.name,
            steps=_removal(some),
            audit=agent_audit(
                agent,
                agent,
                event="instance.deregistered",
                method="Decommission",
                actor=caller.name,
                reason=agent.status_reason,
                instances=str(len(some)),
            ),
        )
        committed = await ledger.commit(transaction)
        removed += len(some)
        view = await caught_up(read_model, view.name, committed.revision)
        if view.position.revision < committed.revision:
            break
    return removed


def _instances(view: NamespaceView, agent_id: str) -> list[str]:
    entry = view.agents.get(agent_id)
    return list(entry.instances)[:MAX_REMOVED_AT_ONCE] if entry is not None else []


def _removal(instance_ids: Sequence[str]) -> tuple[Step, ...]:
    steps: list[Step] = []
    for instance_id in instance_ids:
        steps += (Delete(Collection.INSTANCES, instance_id), ClearDeadline(instance_id))
    return tuple(steps)
