"""How a rollout begins: what it needs to know, and the one commit that makes it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from controlplane.domain.agents import Agent, AgentSpec, AgentStatus
from controlplane.domain.errors import (
    AgentNotFound,
    InvalidArgument,
    InvalidTransition,
)
from controlplane.domain.registration import content_equal, validate_spec
from controlplane.domain.rollouts.model import Phase, Plan, Rollout, active_rollout_key
from controlplane.domain.rollouts.operations import superseded
from controlplane.domain.rollouts.shares import route_of
from controlplane.domain.rollouts.transitions import Transition, TransitionName
from controlplane.domain.routes import WHOLE_BP, Route
from controlplane.domain.work_refusals import (
    RolloutActive,
)
from controlplane.services.ports import (
    ABSENT,
    Collection,
    Expect,
    Ledger,
    Put,
    RequestKey,
    Require,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView
from controlplane.services.rollouts.sight import version_of
from controlplane.services.rollouts.steps import forget_oldest, transition_audit, transition_steps

_CARRIES_A_ROLLOUT: Final = frozenset({AgentStatus.ACTIVE, AgentStatus.DEGRADED})
"""Statuses of an old version that can be rolled back to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutOrder:
    """What is asked for, with every default filled in but `from_version`."""

    name: str
    to_version: str
    from_version: str = ""
    """Empty: the version that has the whole route, else the only ACTIVE one."""
    canary: AgentSpec | None = None
    """What to register as the new version if it is not; None: a copy of the old one."""
    plan: Plan = field(default_factory=Plan)
    reason: str = ""
    supersede: bool = False
    retry_of: str = ""
    """The rollout that this one repeats."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What the ledger says about the agent name of an order."""

    old: Agent
    new: Agent | None
    route: Route | None
    active: Rollout | None
    active_revision: int
    """Of the record that keeps the name for `active`."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A rollout that can begin, and what is written for it."""

    rollout: Rollout
    steps: tuple[Step, ...]
    superseded: str
    """The rollout whose place it takes; empty: nobody's."""

    def transaction(
        self, namespace: str, *, method: str, request: RequestKey | None
    ) -> Transaction:
        """Return the commit; its answer is the rollout_id."""
        rollout = self.rollout
        audit = transition_audit(
            rollout,
            Transition(name=TransitionName.START, after=rollout),
            method=method,
            actor=rollout.started_by,
            reason=rollout.reason,
            request_id=request.request_id if request is not None else "",
        )
        if self.superseded:
            details = {**audit.details, "superseded": self.superseded}
            audit = replace(audit, details=details)
        return Transaction(
            namespace=namespace,
            steps=self.steps,
            audit=audit,
            request=request,
            answer=rollout.rollout_id,
        )


async def ground_of(ledger: Ledger, view: NamespaceView, order: RolloutOrder) -> Ground:
    """Read what an order is about.

    Raises:
        InvalidArgument: it is not clear which version is to be replaced, or it is the same.
        AgentNotFound: the old version is not registered.
    """
    namespace, name = view.name, order.name
    (holder,) = await ledger.read(
        namespace, Collection.ACTIVE_ROLLOUTS, (active_rollout_key(name),)
    )
    (routed,) = await ledger.read(namespace, Collection.ROUTES, (name,))
    route: Route | None = routed.value if routed is not None else None
    active: Rollout | None = None
    if holder is not None:
        (record,) = await ledger.read(namespace, Collection.ROLLOUTS, (holder.value,))
        active = record.value if record is not None else None
    from_version = order.from_version or _present_version(view, name, route, active)
    if active is not None and order.supersede and from_version != active.from_version:
        raise InvalidArgument.of(
            "from_version",
            f"must be {active.from_version!r}, which the rollout to supersede replaces, or empty",
        )
    if from_version == order.to_version:
        raise InvalidArgument.of("to_version", "is the version that it would replace")
    old = await _agent(ledger, namespace, f"{name}@{from_version}")
    if old is None:
        raise AgentNotFound(f"{name}@{from_version}")
    new = await _agent(ledger, namespace, f"{name}@{order.to_version}")
    return Ground(old, new, route, active, holder.revision if holder is not None else 0)


def _present_version(
    view: NamespaceView, name: str, route: Route | None, active: Rollout | None
) -> str:
    """Return the version in service, if there is no doubt about it."""
    if active is not None:
        return active.from_version
    for share in route.shares if route is not None else ():
        if share.weight_bp == WHOLE_BP:
            return share.version
    agents = [view.agents[agent_id].agent for agent_id in view.ids_of_name.get(name, ())]
    versions = [one.spec.version for one in agents if one.status is AgentStatus.ACTIVE]
    if len(versions) != 1:
        raise InvalidArgument.of(
            "from_version",
            f"is required: {len(versions)} versions of {name!r} are ACTIVE, and none has the whole "
            "route",
        )
    return versions[0]


async def _agent(ledger: Ledger, namespace: str, name_version: str) -> Agent | None:
    (holder,) = await ledger.read(namespace, Collection.NAMES, (name_version,))
    if holder is None:
        return None
    (record,) = await ledger.read(namespace, Collection.AGENTS, (holder.value,))
    return record.value if record is not None else None


def begin(
    view: NamespaceView,
    order: RolloutOrder,
    ground: Ground,
    *,
    rollout_id: str,
    agent_id: str,
    started_by: str,
    now_ms: int,
) -> Beginning:
    """Decide how the rollout begins; `agent_id` is for a new version that is not registered.

    The route is written at once, all of it for the old version: a new version that comes to life
    gets nothing before its first step.

    Raises:
        RolloutActive: there is one, and it is not to be superseded.
        InvalidTransition: one of the versions, or the rollout to supersede, is not fit for it.
        InvalidArgument: what is to be registered is wrong, or is registered with other content.
    """
    active, old = ground.active, ground.old
    if active is not None and not order.supersede:
        raise RolloutActive(order.name, active.rollout_id)
    if old.status not in _CARRIES_A_ROLLOUT:
        raise InvalidTransition(
            f"agent {old.agent_id!r}", current=old.status, wanted="replaced by a rollout"
        )
    new, registration = _new_version(order, ground, agent_id)
    rollout = Rollout(
        rollout_id=rollout_id,
        name=order.name,
        from_version=old.spec.version,
        to_version=order.to_version,
        from_agent_id=old.agent_id,
        to_agent_id=new.agent_id,
        plan=order.plan,
        reason=order.reason,
        started_by=started_by,
        started_at_ms=now_ms,
        stopped_before=new.is_stopped or new.draining,
        phase=Phase.PENDING,
        phase_since_ms=now_ms,
        message=f"waits for {order.to_version}",
        retry_of=order.retry_of,
    )
    route_seen = Expect(revision=ground.route.revision if ground.route is not None else 0)
    held = Expect(revision=ground.active_revision)
    steps = (
        Put(Collection.ROLLOUTS, rollout_id, rollout, ABSENT),
        Put(Collection.ACTIVE_ROLLOUTS, active_rollout_key(order.name), rollout_id, held),
        Put(Collection.ROUTES, order.name, route_of(rollout), route_seen),
        *registration,
        Require(Collection.AGENTS, old.agent_id, Expect(revision=old.revision)),
        *(_superseding(view, active, rollout, now_ms) if active is not None else ()),
    )
    return Beginning(rollout, steps, active.rollout_id if active is not None else "")


def _new_version(
    order: RolloutOrder, ground: Ground, agent_id: str
) -> tuple[Agent, tuple[Step, ...]]:
    """Return the new version, and what registers it if it is not."""
    spec = order.canary or replace(ground.old.spec, version=order.to_version)
    spec = replace(spec, name=order.name, version=order.to_version)
    # The version is that of the order, whatever else comes from the specification.
    path = "canary" if order.canary is not None else "to_version"
    wrong = [
        replace(one, field="to_version") if one.field == f"{path}.version" else one
        for one in validate_spec(spec, path)
    ]
    if wrong:
        raise InvalidArgument(*wrong)
    known = ground.new
    if known is None:
        agent = Agent(agent_id=agent_id, spec=spec)
        return agent, (
            Put(Collection.NAMES, spec.name_version, agent_id, ABSENT),
            Put(Collection.AGENTS, agent_id, agent, ABSENT),
        )
    if known.status is AgentStatus.DECOMMISSIONED:
        raise InvalidTransition(
            f"agent {known.agent_id!r}", current=known.status, wanted="rolled out"
        )
    if order.canary is not None and not content_equal(known.spec, spec):
        raise InvalidArgument.of(
            "canary", f"{spec.name_version} is registered with other content: leave it out"
        )
    seen = Expect(revision=known.revision)
    return known, (Require(Collection.AGENTS, known.agent_id, seen),)


def _superseding(view: NamespaceView, active: Rollout, by: Rollout, now_ms: int) -> Iterator[Step]:
    """Yield what ends the rollout whose place is taken; its route has been written already."""
    transition = superseded(
        active,
        now_ms,
        by=by.rollout_id,
        same_target=active.to_agent_id == by.to_agent_id,
        canary=version_of(view.agents.get(active.to_agent_id)),
    )
    yield from transition_steps(view, active, transition, now_ms=now_ms)
    yield from forget_oldest(view, transition.after)
