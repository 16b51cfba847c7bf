"""Short ways to say what a test commits."""

from controlplane.domain.agents import Agent, AgentSpec, Instance
from controlplane.services.ports import (
    ANY,
    AuditEntry,
    Collection,
    Expect,
    Put,
    RequestKey,
    Step,
    Transaction,
)

NS = "team-a"

AUDIT = AuditEntry(actor="alice", method="Test", object="object")


def agent(agent_id: str, **spec) -> Agent:
    return Agent(agent_id=agent_id, spec=AgentSpec(name=agent_id, version="1.0.0", **spec))


def instance(instance_id: str, agent_id: str = "a") -> Instance:
    return Instance(instance_id=instance_id, agent_id=agent_id)


def transaction(
    *steps: Step,
    namespace: str = NS,
    audit: AuditEntry = AUDIT,
    request: RequestKey | None = None,
    answer: str = "",
    durable: bool = False,
) -> Transaction:
    return Transaction(
        namespace=namespace,
        steps=steps,
        audit=audit,
        request=request,
        answer=answer,
        durable=durable,
    )


def put_name(key: str, value: str = "value", expect: Expect = ANY, *, fresh: bool = False) -> Put:
    return Put(Collection.NAMES, key, value, expect, fresh)
