"""The stage of a namespace: the candidate that is tried, on a share of the agents or unseen."""

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.errors import InvalidTransition, StoreUnavailable
from controlplane.domain.identity import Caller
from controlplane.domain.policy_sets.candidates import STAGE_KEY, PolicyStage, StageKind
from controlplane.services.policies.set_changes import OBJECT
from controlplane.services.policies.settings import MAX_ATTEMPTS
from controlplane.services.policies.shadow import Shadow, ShadowReport
from controlplane.services.ports import (
    AuditEntry,
    Clock,
    Collection,
    ConditionFailed,
    Delete,
    Expect,
    IdSource,
    Ledger,
    Put,
    RequestKey,
    Require,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

AGENTS_AT_ONCE: Final = 1_000
"""Agents whose buckets are counted in one go: a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChange:
    """A stage that somebody wants."""

    candidate_id: str
    kind: StageKind
    percent: int = 0
    conditions: tuple[Require, ...] = ()
    """Only while all of that is as it was seen: the candidate, its tests, the live set."""
    reason: str = ""
    dry_run: bool = False
    request: RequestKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """How a stage is going."""

    stage: PolicyStage
    agents: int
    """Registered agents that the candidate decides for."""
    agents_total: int
    shadow: ShadowReport


class StageReports:
    """Says how stages are going."""

    def __init__(self, read_model: ReadModel, shadow: Shadow) -> None:
        self._read_model = read_model
        self._shadow = shadow

    async def of(self, namespace: str, *, min_revision: int) -> StageReport | None:
        """Return the stage of a namespace and how it is going; None: there is none."""
        view = await self._read_model.at_least(namespace, min_revision)
        stage = view.stage
        if stage is None:
            return None
        agents = 0
        for number, agent_id in enumerate(tuple(view.agents), 1):
            agents += stage.decides_for(agent_id)
            if number % AGENTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return StageReport(
            stage=stage,
            agents=agents,
            agents_total=len(view.agents),
            shadow=self._shadow.report_of(namespace, stage),
        )


class Stages:
    """Begins, moves and ends stages."""

    def __init__(self, ledger: Ledger, clock: Clock, ids: IdSource) -> None:
        self._ledger = ledger
        self._clock = clock
        self._ids = ids

    async def move(
        self, view: NamespaceView, wanted: StageChange, *, caller: Caller
    ) -> PolicyStage | None:
        """Begin a stage, or move the one there is; None: somebody else did meanwhile.

        Raises:
            InvalidTransition: another candidate is staged.
        """
        before, kind = view.stage, wanted.kind
        if before is not None and before.candidate_id != wanted.candidate_id:
            raise InvalidTransition(
                "the stage of the policies",
                current=f"{before.kind} of candidate {before.candidate_id}",
                wanted=f"{kind} of candidate {wanted.candidate_id}",
            )
        stage = PolicyStage(
            stage_id=self._ids.new_id("pst") if before is None else before.stage_id,
            kind=kind,
            candidate_id=wanted.candidate_id,
            percent=wanted.percent,
            started_by=caller.name if before is None else before.started_by,
            started_at_ms=self._clock.store_ms() if before is None else before.started_at_ms,
            reason=wanted.reason,
            updated_by=caller.name,
        )
        if wanted.dry_run:
            return stage
        steps: list[Step] = [
            Put(
                Collection.POLICY_STAGES,
                STAGE_KEY,
                stage,
                Expect(revision=0 if before is None else before.revision),
            ),
        ]
        steps.extend(wanted.conditions)
        audit = AuditEntry(
            actor=caller.name,
            method="ActivatePolicyRevision",
            object=OBJECT,
            event="policy.staged",
            reason=wanted.reason,
            request_id=wanted.request.request_id if wanted.request is not None else "",
            details={
                "candidate_id": stage.candidate_id,
                "stage": str(kind),
                "percent": str(stage.percent),
            },
        )
        try:
            committed = await self._ledger.commit(
                Transaction(
                    namespace=view.name,
                    steps=tuple(steps),
                    audit=audit,
                    request=wanted.request,
                    answer=stage.stage_id,
                )
            )
        except ConditionFailed:
            return None
        return replace(stage, revision=committed.revision, updated_at_ms=committed.at_ms)

    async def stop(
        self,
        namespace: str,
        *,
        reason: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> PolicyStage | None:
        """End the stage: the live set decides for everybody again.

        Returns it as it was; None: there was none.
        """
        for _ in range(MAX_ATTEMPTS):
            (record,) = await self._ledger.read(namespace, Collection.POLICY_STAGES, (STAGE_KEY,))
            if record is None:
                return None
            stage: PolicyStage = record.value
            audit = AuditEntry(
                actor=caller.name,
                method="StopPolicyStage",
                object=OBJECT,
                event="policy.stage_stopped",
                reason=reason,
                request_id=request.request_id if request is not None else "",
                details={"candidate_id": stage.candidate_id},
            )
            condition = Expect(revision=record.revision)
            try:
                await self._ledger.commit(
                    Transaction(
                        namespace=namespace,
                        steps=(Delete(Collection.POLICY_STAGES, STAGE_KEY, condition),),
                        audit=audit,
                        request=request,
                        answer=stage.stage_id,
                    )
                )
            except ConditionFailed:
                continue
            return stage
        raise StoreUnavailable("too many callers change the stage at once")
