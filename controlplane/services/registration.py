"""What a registration needs to be written: decided on what is known, committed by the registry."""

from dataclasses import dataclass, replace

from controlplane.domain.agents import Agent, AgentSpec, AgentStatus, Instance
from controlplane.domain.errors import (
    AgentExists,
    InstanceFenced,
    InvalidArgument,
    InvalidTransition,
)
from controlplane.domain.identity import Caller
from controlplane.domain.liveness import LivenessSettings
from controlplane.domain.namespaces import Quota
from controlplane.domain.registration import content_equal
from controlplane.services.namespaces.quotas import Claims
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Collection,
    Committed,
    Expect,
    IdSource,
    Put,
    RequestKey,
    Require,
    SetDeadline,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceClaim:
    """The process that registers along with its agent."""

    instance_id: str = ""
    endpoint: str = ""
    generation: int = 0
    """Generation it already holds; 0 for a new process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A request to exist, validated."""

    spec: AgentSpec
    agent_id: str = ""
    instance: InstanceClaim | None = None
    request: RequestKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The answer: the records as they are, and whether this call wrote anything."""

    agent: Agent
    instance: Instance | None
    created: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What is known about the identities that a registration claims."""

    agent: Agent | None
    """The agent under the claimed agent_id, or under the claimed name@version."""
    holder: str
    """agent_id that holds the claimed name@version; empty if nobody does."""
    instance: Instance | None


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer, and the transaction that makes it true (None: it is true already)."""

    answer: Registered
    transaction: Transaction | None

    def committed(self, committed: Committed) -> Registered:
        """Return the answer with what the store added."""
        revision, at_ms = committed.revision, committed.at_ms
        agent, instance = self.answer.agent, self.answer.instance
        if agent.revision == 0:
            agent = replace(agent, revision=revision, registered_at_ms=at_ms, updated_at_ms=at_ms)
        if instance is not None and instance.generation == 0:
            instance = replace(
                instance,
                revision=revision,
                generation=revision,
                registered_at_ms=at_ms,
                updated_at_ms=at_ms,
            )
        return Registered(agent=agent, instance=instance, created=True)


def existing_agent(registration: Registration, known: Known) -> Agent | None:
    """Return the agent that a registration means; None if it is new.

    Raises:
        AgentExists: its identities belong to other content.
        InvalidTransition: it is decommissioned.
    """
    name_version = registration.spec.name_version
    if registration.agent_id and known.holder not in {"", registration.agent_id}:
        raise AgentExists(name_version, known.holder)
    agent = known.agent
    if agent is None:
        return None
    if agent.status is AgentStatus.DECOMMISSIONED:
        raise InvalidTransition(
            f"agent {agent.agent_id!r}", current=agent.status, wanted=AgentStatus.REGISTERED
        )
    if not content_equal(agent.spec, registration.spec):
        raise AgentExists(agent.spec.name_version, agent.agent_id)
    return agent


class RegistrationPlanner:
    """Turns a registration and what is known into a plan."""

    def __init__(self, ids: IdSource, liveness: LivenessSettings) -> None:
        self._ids = ids
        self._liveness = liveness

    def plan(
        self, namespace: str, registration: Registration, known: Known, caller: Caller
    ) -> Plan:
        """Decide what has to be written, from what is known; refuse what may not be."""
        agent = existing_agent(registration, known)
        steps: list[Step] = []
        if agent is None:
            agent = Agent(
                agent_id=registration.agent_id or self._ids.new_id("agt"), spec=registration.spec
            )
            steps.append(
                Put(Collection.NAMES, registration.spec.name_version, agent.agent_id, ABSENT)
            )
            steps.append(Put(Collection.AGENTS, agent.agent_id, agent, ABSENT))
        instance, fresh = self._instance(registration.instance, agent, known.instance)
        if fresh and instance is not None:
            if agent.revision:
                # A decommission that happens at the same time must win.
                unchanged = Expect(revision=agent.revision)
                steps.append(Require(Collection.AGENTS, agent.agent_id, unchanged))
            held = known.instance.revision if known.instance is not None else 0
            steps.append(
                Put(
                    Collection.INSTANCES,
                    instance.instance_id,
                    instance,
                    Expect(revision=held),
                    fresh_generation=True,
                )
            )
            grant = self._liveness.deadline_after(instance.state, agent.spec)
            steps.append(SetDeadline(instance.instance_id, grant))
        if not steps:
            return Plan(Registered(agent=agent, instance=instance, created=False), None)
        request = registration.request
        transaction = Transaction(
            namespace=namespace,
            steps=tuple(steps),
            audit=AuditEntry(
                actor=caller.name,
                method="Register",
                object=f"agents/{agent.agent_id}",
                event="agent.registered" if agent.revision == 0 else "instance.registered",
                request_id=request.request_id if request is not None else "",
                details={"instance_id": instance.instance_id} if instance is not None else {},
            ),
            request=request,
            answer=f"{agent.agent_id}\n{instance.instance_id if instance is not None else ''}",
        )
        return Plan(Registered(agent=agent, instance=instance, created=True), transaction)

    def _instance(
        self, claim: InstanceClaim | None, agent: Agent, known: Instance | None
    ) -> tuple[Instance | None, bool]:
        """Return the instance record and whether it is a new process that must be written."""
        if claim is None:
            return None, False
        if known is not None:
            if known.agent_id != agent.agent_id:
                raise InvalidArgument.of(
                    "instance.instance_id", f"belongs to agent {known.agent_id!r}"
                )
            if claim.generation == known.generation:
                return known, False
            if 0 < claim.generation < known.generation:
                raise InstanceFenced(
                    known.instance_id, generation=claim.generation, current=known.generation
                )
        return (
            Instance(
                instance_id=claim.instance_id or self._ids.new_id("ins"),
                agent_id=agent.agent_id,
                endpoint=claim.endpoint,
            ),
            True,
        )


def claim_room(claims: Claims, plan: Plan, known: Known) -> None:
    """Claim room for what a plan adds to its namespace.

    An agent that was there before, and a process that takes the place of another one, add nothing.

    Raises:
        QuotaExceeded: there is no room for it.
    """
    agent, instance = plan.answer.agent, plan.answer.instance
    if plan.transaction is None:
        return
    if agent.revision == 0:
        name_version = agent.spec.name_version
        claims.take(Quota.AGENTS, name_version, lambda view: name_version in view.agent_id_of)
    if instance is not None and known.instance is None:
        instance_id = instance.instance_id
        claims.take(Quota.INSTANCES, instance_id, lambda view: instance_id in view.instances)


def known_here(view: NamespaceView, registration: Registration) -> Known:
    """Return what the copy in memory knows; it may lag behind the ledger."""
    holder = view.agent_id_of.get(registration.spec.name_version, "")
    entry = view.agents.get(registration.agent_id or holder)
    claim = registration.instance
    live = view.instances.get(claim.instance_id) if claim is not None else None
    return Known(
        entry.agent if entry is not None else None,
        holder,
        live.instance if live is not None else None,
    )
