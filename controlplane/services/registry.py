"""Registration: who exists. The only writer of agent records besides liveness."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from controlplane.domain.access.refusals import QuotaExceeded
from controlplane.domain.agents import Agent, AgentSpec, AgentStatus
from controlplane.domain.errors import (
    AgentExists,
    AgentNotFound,
    DomainError,
    InstanceFenced,
    InvalidArgument,
    InvalidTransition,
    RevisionConflict,
    StoreUnavailable,
)
from controlplane.domain.identity import Caller
from controlplane.domain.liveness import LivenessSettings
from controlplane.domain.registration import apply_mask
from controlplane.services.namespaces.quotas import NO_QUOTAS, Claims, QuotaKeeper
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    IdSource,
    Ledger,
    Put,
    Record,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import ReadModel
from controlplane.services.registration import (
    Known,
    Plan,
    Registered,
    Registration,
    RegistrationPlanner,
    claim_room,
    known_here,
)

MAX_ATTEMPTS = 8
"""Rounds of read-decide-commit before contention is reported: each round loses only against a
commit that won, so eight lost in a row mean a hot spot, not bad luck."""


class Registry:
    """Registers and describes agents."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        ids: IdSource,
        liveness: LivenessSettings,
        quotas: QuotaKeeper = NO_QUOTAS,
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._quotas = quotas
        self._planner = RegistrationPlanner(ids, liveness)

    async def register(
        self, namespace: str, registration: Registration, *, caller: Caller
    ) -> Registered:
        """Register an agent and the instance that calls; idempotent for identical content.

        Raises:
            AgentExists: name@version or agent_id belongs to other content.
            InvalidTransition: the agent is decommissioned.
            InstanceFenced: a newer process took the instance_id.
            RequestIdReused: the request_id came with other content before.
            QuotaExceeded: the namespace may not hold more agents, or instances.
        """
        (outcome,) = await self.register_many(namespace, (registration,), caller=caller)
        if isinstance(outcome, DomainError):
            raise outcome
        return outcome

    async def register_many(
        self, namespace: str, registrations: Sequence[Registration], *, caller: Caller
    ) -> list[Registered | DomainError]:
        """Register many, each for itself, in one round trip where nobody competes."""
        with self._quotas.claims(namespace) as claims:
            outcomes = await self._register_what_is_known(namespace, registrations, claims, caller)
        return await self._settle_contested(namespace, registrations, outcomes, caller)

    async def _register_what_is_known(
        self,
        namespace: str,
        registrations: Sequence[Registration],
        claims: Claims,
        caller: Caller,
    ) -> "list[_Outcome | None]":
        """Decide on the copy in memory; None where the ledger must be asked."""
        view = self._read_model.view(namespace)
        outcomes: list[_Outcome | None] = []
        planned: list[tuple[int, Plan, Transaction]] = []
        for registration in registrations:
            try:
                known = known_here(view, registration)
                plan = self._planner.plan(namespace, registration, known, caller)
                claim_room(claims, plan, known)
            except DomainError as refusal:
                outcomes.append(refusal)
                continue
            outcomes.append(plan.answer if plan.transaction is None else None)
            if plan.transaction is not None:
                planned.append((len(outcomes) - 1, plan, plan.transaction))
        if planned:
            results = await self._commit([transaction for *_, transaction in planned])
            for (index, plan, _), result in zip(planned, results, strict=True):
                outcomes[index] = _outcome(plan, result)
        return outcomes

    async def _commit(self, transactions: Sequence[Transaction]) -> list[Committed | Exception]:
        """Commit each for itself; a lone one shares its round trip with those of other calls."""
        if len(transactions) > 1:
            return await self._ledger.commit_many(transactions)
        try:
            return [await self._ledger.commit(transactions[0])]
        except (ConditionFailed, DomainError) as refusal:
            return [refusal]

    async def _settle_contested(
        self,
        namespace: str,
        registrations: Sequence[Registration],
        outcomes: Sequence[Registered | DomainError | None],
        caller: Caller,
    ) -> list[Registered | DomainError]:
        """Ask the ledger itself about what the copy in memory could not decide or would refuse."""
        settled = list(outcomes)
        contested = [i for i, o in enumerate(outcomes) if o is None or _may_be_stale(o)]
        answers = await asyncio.gather(
            *(self._settle(namespace, registrations[i], caller) for i in contested)
        )
        for index, answer in zip(contested, answers, strict=True):
            settled[index] = answer
        return [outcome for outcome in settled if outcome is not None]

    async def _settle(
        self, namespace: str, registration: Registration, caller: Caller
    ) -> Registered | DomainError:
        """Decide on what the ledger itself says, until nobody interferes."""
        for _ in range(MAX_ATTEMPTS):
            try:
                if registration.request is not None:
                    replay = await self._ledger.find_request(namespace, registration.request)
                    if replay is not None:
                        return await self._replayed(namespace, registration, replay)
                known = await self._known(namespace, registration)
                plan = self._planner.plan(namespace, registration, known, caller)
                if plan.transaction is None:
                    return plan.answer
                with self._quotas.claims(namespace) as claims:
                    claim_room(claims, plan, known)
                    committed = await self._ledger.commit(plan.transaction)
            except ConditionFailed:
                continue
            except DomainError as refusal:
                return refusal
            if committed.replayed:
                return await self._replayed(namespace, registration, committed)
            return plan.committed(committed)
        return StoreUnavailable("too many callers change this agent at once")

    async def _replayed(
        self, namespace: str, registration: Registration, replay: Committed
    ) -> Registered:
        agent_id, _, instance_id = replay.answer.partition("\n")
        (agent,) = await self._ledger.read(namespace, Collection.AGENTS, (agent_id,))
        instance: Record | None = None
        if registration.instance is not None:
            (instance,) = await self._ledger.read(namespace, Collection.INSTANCES, (instance_id,))
        if agent is None:
            raise AgentNotFound(agent_id)
        return Registered(
            agent=agent.value,
            instance=instance.value if instance is not None else None,
            created=False,
        )

    async def _known(self, namespace: str, registration: Registration) -> Known:
        name_version = registration.spec.name_version
        (name,) = await self._ledger.read(namespace, Collection.NAMES, (name_version,))
        holder = name.value if name is not None else ""
        agent_id = registration.agent_id or holder
        agent = instance = None
        if agent_id:
            (agent,) = await self._ledger.read(namespace, Collection.AGENTS, (agent_id,))
        claim = registration.instance
        if claim is not None and claim.instance_id:
            (instance,) = await self._ledger.read(
                namespace, Collection.INSTANCES, (claim.instance_id,)
            )
        return Known(
            agent.value if agent is not None else None,
            holder,
            instance.value if instance is not None else None,
        )

    async def update(
        self,
        namespace: str,
        agent_id: str,
        spec: AgentSpec,
        paths: Sequence[str],
        *,
        expected_revision: int,
        reason: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> Agent:
        """Change the named fields of what an agent declares.

        Raises:
            AgentNotFound: no such agent.
            RevisionConflict: it is not at `expected_revision`.
            InvalidTransition: it is decommissioned.
            InvalidArgument: a path may not be changed, or a value is out of range.
        """
        for _ in range(MAX_ATTEMPTS):
            (record,) = await self._ledger.read(namespace, Collection.AGENTS, (agent_id,))
            if request is not None and await self._ledger.find_request(namespace, request):
                if record is None:
                    raise AgentNotFound(agent_id)
                stored: Agent = record.value
                return stored
            if record is None:
                raise AgentNotFound(agent_id)
            current: Agent = record.value
            if expected_revision not in {0, current.revision}:
                raise RevisionConflict(
                    f"agent {agent_id!r}", expected=expected_revision, current=current.revision
                )
            if current.status is AgentStatus.DECOMMISSIONED:
                raise InvalidTransition(
                    f"agent {agent_id!r}", current=current.status, wanted="updated"
                )
            changed = replace(current, spec=apply_mask(current.spec, spec, paths))
            if changed == current:
                return current
            transaction = Transaction(
                namespace=namespace,
                steps=(
                    Put(
                        Collection.AGENTS,
                        agent_id,
                        changed,
                        Expect(revision=current.revision),
                    ),
                ),
                audit=AuditEntry(
                    actor=caller.name,
                    method="UpdateAgent",
                    object=f"agents/{agent_id}",
                    event="agent.updated",
                    reason=reason,
                    request_id=request.request_id if request is not None else "",
                    details={
                        "fields": ",".join(sorted(paths)),
                        "before_revision": str(current.revision),
                    },
                ),
                request=request,
                answer=agent_id,
            )
            try:
                committed = await self._ledger.commit(transaction)
            except ConditionFailed:
                continue
            return replace(changed, revision=committed.revision, updated_at_ms=committed.at_ms)
        raise StoreUnavailable("too many callers change this agent at once")


_Outcome = Registered | DomainError


def _outcome(plan: Plan, result: Committed | Exception) -> _Outcome | None:
    """Return the answer to a planned registration; None if the ledger must be asked again."""
    match result:
        case Committed(replayed=False):
            return plan.committed(result)
        case Committed() | ConditionFailed():
            return None
        case DomainError():
            return result
        case _:
            raise result


_STALE: Final = (
    AgentExists,
    InstanceFenced,
    InvalidArgument,
    InvalidTransition,
    QuotaExceeded,
)
"""Refusals that another view of the ledger might not make."""


def _may_be_stale(outcome: _Outcome) -> bool:
    return isinstance(outcome, _STALE)
