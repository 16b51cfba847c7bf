"""Retires an agent for good, with its instances.

A registration holds the agent's record to the revision it saw, as the retirement does. So whoever
was registered before the agent was retired is known as soon as this replica has followed that
commit, and is removed then; after it nobody is registered any more.

Every instance that goes leaves the record of a drain that has ended: it is safe to stop, and for as
long as such records are kept (24 h) its beats are answered GONE by every replica, not "register
again".
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from controlplane.domain.agents import Agent, AgentStatus, Instance
from controlplane.domain.drains import Drain, DrainPhase
from controlplane.domain.identity import Caller
from controlplane.services.families import caught_up
from controlplane.services.lifecycle.deactivation import agent_audit
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
    view: NamespaceView,
    agent: Agent,
    reason: str,
    request: RequestKey | None,
    caller: Caller,
    now_ms: int,
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
        steps=(
            Put(Collection.AGENTS, agent.agent_id, after, unchanged),
            *_removal(removed, reason, caller, now_ms),
        ),
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
    ledger: Ledger,
    read_model: ReadModel,
    agent: Agent,
    view: NamespaceView,
    caller: Caller,
    now_ms: int,
) -> int:
    """Remove what instances a retired agent still has; return how many.

    `view` has followed the retirement. Repeatable: what is cut short is done by another call.
    """
    removed = 0
    while some := _instances(view, agent.agent_id):
        transaction = Transaction(
            namespace=view.name,
            steps=_removal(some, agent.status_reason, caller, now_ms),
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


def _instances(view: NamespaceView, agent_id: str) -> list[Instance]:
    entry = view.agents.get(agent_id)
    members = entry.instances.values() if entry is not None else ()
    return [live.instance for live in members][:MAX_REMOVED_AT_ONCE]


def _removal(
    instances: Sequence[Instance], reason: str, caller: Caller, now_ms: int
) -> tuple[Step, ...]:
    steps: list[Step] = []
    for one in instances:
        drain = Drain(
            agent_id=one.agent_id,
            instance_id=one.instance_id,
            phase=DrainPhase.DRAINED,
            reason=reason,
            actor=caller.name,
            started_at_ms=now_ms,
            deadline_at_ms=now_ms,
            ended_at_ms=now_ms,
            instance_generation=one.generation,
        )
        steps += (
            Delete(Collection.INSTANCES, one.instance_id),
            ClearDeadline(one.instance_id),
            Put(Collection.DRAINS, drain.key, drain),
        )
    return tuple(steps)
