"""What starting and undoing a drain write: the record and the flag it stands for, together.

A drain is never a record alone. `Agent.draining` and `Instance.draining` keep new work away (an
assignment holds both records to the revisions it saw), so flag and record change in one commit.
"""

from dataclasses import replace

from controlplane.domain.agents import Agent, Instance
from controlplane.domain.drains import Drain
from controlplane.services.ports import Collection, Delete, Expect, Put, Step


def drain_steps(
    agent: Agent, instance: Instance | None, drain: Drain, known: Drain | None
) -> tuple[Step, ...]:
    """Return the steps that start a drain, or replace one.

    `instance` is None for the drain of the whole agent. `known` is the record under the same key,
    of whatever phase; None: there is none. The commit fails with ConditionFailed if the agent (or
    the instance) or the record is no longer as it was seen.
    """
    return (_drain(drain, known), _flag(agent, instance, draining=True))


def cancel_steps(
    agent: Agent, instance: Instance | None, cancelled: Drain, known: Drain
) -> tuple[Step, ...]:
    """Return the steps that undo a drain: `cancelled` replaces `known`, and work comes again.

    Conditions as in `drain_steps`.
    """
    return (_drain(cancelled, known), _flag(agent, instance, draining=False))


def forget_steps(known: Drain | None) -> tuple[Step, ...]:
    """Return the steps that remove the record of a drain that no longer describes its target."""
    if known is None:
        return ()
    return (Delete(Collection.DRAINS, known.key, Expect(revision=known.revision)),)


def drain_object(drain: Drain) -> str:
    """Return the object of a drain in the audit."""
    return f"instances/{drain.instance_id}" if drain.instance_id else f"agents/{drain.agent_id}"


def _drain(drain: Drain, known: Drain | None) -> Put:
    seen = known.revision if known is not None else 0
    return Put(Collection.DRAINS, drain.key, drain, Expect(revision=seen))


def _flag(agent: Agent, instance: Instance | None, *, draining: bool) -> Put:
    if instance is None:
        after = replace(agent, draining=draining)
        return Put(Collection.AGENTS, agent.agent_id, after, Expect(revision=agent.revision))
    return Put(
        Collection.INSTANCES,
        instance.instance_id,
        replace(instance, draining=draining),
        Expect(revision=instance.revision),
    )
