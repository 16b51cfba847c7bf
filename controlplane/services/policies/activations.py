"""What makes candidates decide: for nobody yet, for a share of the agents, for all; and back."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace

from controlplane.domain.errors import (
    InvalidArgument,
    LimitExceeded,
    StoreUnavailable,
)
from controlplane.domain.identity import Caller
from controlplane.domain.namespaces import Quota
from controlplane.domain.policies import PolicySet
from controlplane.domain.policy_sets.candidates import (
    STAGE_KEY,
    WHOLE_PERCENT,
    PolicyCandidate,
    PolicyStage,
    StageKind,
)
from controlplane.domain.policy_sets.history import (
    HEAD_KEY,
    ChangeKind,
    PolicyChange,
    PolicyDifference,
    differences,
)
from controlplane.domain.policy_sets.refusals import PolicyCandidateNotFound, TooManyFlips
from controlplane.domain.policy_sets.replay import ReplayReport
from controlplane.services.namespaces.quotas import NO_QUOTAS, QuotaKeeper
from controlplane.services.policies.head import head_of
from controlplane.services.policies.policy_tests import TestRuns
from controlplane.services.policies.revisions import TESTS_KEY, Revisions, tests_of
from controlplane.services.policies.set_changes import (
    audit_of,
    changed,
    check_live,
    end_of,
    put_steps,
    tests_as_seen,
)
from controlplane.services.policies.settings import MAX_ATTEMPTS
from controlplane.services.policies.simulation import NEWEST, Sample, Simulations
from controlplane.services.policies.stages import StageChange, Stages
from controlplane.services.ports import (
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    Ledger,
    RequestKey,
    Require,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """What ActivatePolicyRevision asks for."""

    candidate_id: str
    stage: StageKind | None = None
    """None: for all agents, at once."""
    percent: int = 0
    """Of PERCENT: 1-99."""
    expected_revision: int | None = None
    """Of the live set; None does not check."""
    max_flips: int | None = None
    """Replay first, and refuse when more decisions would come out otherwise; None: do not."""
    sample: Sample = NEWEST
    reason: str = ""
    dry_run: bool = False
    request: RequestKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated:
    """What an activation or a rollback did, or would do."""

    live_revision: int
    changes: tuple[PolicyDifference, ...] = ()
    """In the live set; empty for a stage."""
    stage: PolicyStage | None = None
    """The stage that there is now."""
    report: ReplayReport | None = None
    """With `max_flips`."""


class PolicyActivations:
    """Activates candidates, in stages or whole, and rolls back."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        *,
        stages: Stages,
        revisions: Revisions,
        runs: TestRuns,
        simulations: Simulations,
        max_policies: int,
        quotas: QuotaKeeper = NO_QUOTAS,
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._stages = stages
        self._revisions = revisions
        self._runs = runs
        self._simulations = simulations
        self._max_policies = max_policies
        self._quotas = quotas

    async def activate(self, namespace: str, wanted: Activation, *, caller: Caller) -> Activated:
        """Activate a candidate as far as asked.

        Raises:
            PolicyCandidateNotFound: there is none.
            RevisionConflict: the live set is not at the expected revision.
            PolicyTestsFailed: tests of the set that would decide fail.
            TooManyFlips: more recorded decisions than allowed would come out otherwise, or might:
                see `ReplayReport.within`.
            InvalidTransition: another candidate is staged.
            LimitExceeded: the namespace would hold too many policies.
        """
        percent_given = wanted.stage is StageKind.PERCENT
        if percent_given != (0 < wanted.percent < WHOLE_PERCENT) or wanted.percent < 0:
            raise InvalidArgument.of("percent", "must be 1-99 for PERCENT, and nothing for others")
        wanted.sample.check()
        report: ReplayReport | None = None
        judged: Expect | None = None
        for _ in range(MAX_ATTEMPTS):
            view = await self._newest(namespace)
            replay = await self._replayed(view, wanted.request)
            if replay is not None:
                return replay
            check_live(view, wanted.expected_revision)
            head = head_of(view)
            candidate = await self._candidate(namespace, wanted.candidate_id)
            rules = await asyncio.to_thread(candidate.rules, view.policy_set)
            await self._runs.require(view, rules, candidate.tests)
            if wanted.max_flips is not None and judged != head:
                report, judged = await self._replay(view, rules, wanted), head
                continue  # with what is live by now; another set is replayed as well
            if wanted.stage is None:
                outcome = await self._whole(view, head, candidate, wanted, caller)
            else:
                outcome = await self._staged(view, candidate, wanted, wanted.stage, caller)
            if outcome is not None:
                return replace(outcome, report=report)
        raise StoreUnavailable("too many callers change the policies at once")

    async def rollback(
        self,
        namespace: str,
        to_revision: int,
        *,
        expected_revision: int | None,
        reason: str,
        request: RequestKey | None,
        dry_run: bool,
        caller: Caller,
    ) -> Activated:
        """Restore the policies and tests of an older revision as a new one; a stage ends with it.

        Raises:
            RevisionNotFound: the history does not hold it.
            RevisionConflict: the live set is not at the expected revision.
            PolicyTestsFailed: tests of that revision fail.
        """
        for _ in range(MAX_ATTEMPTS):
            view = await self._newest(namespace)
            replay = await self._replayed(view, request)
            if replay is not None:
                return replay
            check_live(view, expected_revision)
            head = head_of(view)
            then = await self._revisions.at(namespace, to_revision)
            changes = await asyncio.to_thread(
                differences, dict(view.policies), then.snapshot.policies
            )
            tests = then.snapshot.tests
            rules = await asyncio.to_thread(changed, view.policy_set, changes)
            await self._runs.require(view, rules, tests)
            nothing = not changes and tests == tests_of(view).tests and view.stage is None
            if dry_run or nothing:
                return Activated(live_revision=view.policy_set.revision, changes=changes)
            change = PolicyChange(
                kind=ChangeKind.ROLLED_BACK,
                actor=caller.name,
                reason=reason,
                restored_from=then.revision,
            )
            steps = (*put_steps(view, head, changes, tests, change), *end_of(view.stage))
            committed = await self._commit(
                namespace, steps, "RollbackPolicyRevision", change, request
            )
            if committed is not None:
                return Activated(live_revision=committed.revision, changes=changes)
        raise StoreUnavailable("too many callers change the policies at once")

    async def _newest(self, namespace: str) -> NamespaceView:
        """Return a copy that has seen the last change of the live set, its tests and the stage."""
        records = await self._ledger.read(
            namespace, Collection.POLICY_STAGES, (HEAD_KEY, STAGE_KEY)
        )
        tests = await self._ledger.read(namespace, Collection.POLICY_SETTINGS, (TESTS_KEY,))
        newest = max((one.revision for one in (*records, *tests) if one is not None), default=0)
        return await self._read_model.at_least(namespace, newest)

    async def _replayed(self, view: NamespaceView, request: RequestKey | None) -> Activated | None:
        if request is None:
            return None
        replay = await self._ledger.find_request(view.name, request)
        if replay is None:
            return None
        view = await self._read_model.at_least(view.name, replay.revision)
        return Activated(live_revision=view.policy_set.revision, stage=view.stage)

    async def _candidate(self, namespace: str, candidate_id: str) -> PolicyCandidate:
        (record,) = await self._ledger.read(
            namespace, Collection.POLICY_CANDIDATES, (candidate_id,)
        )
        if record is None:
            raise PolicyCandidateNotFound(candidate_id)
        candidate: PolicyCandidate = record.value
        return candidate

    async def _replay(
        self, view: NamespaceView, rules: PolicySet, wanted: Activation
    ) -> ReplayReport:
        report = await self._simulations.run(view, rules.policies, wanted.sample)
        if wanted.max_flips is not None and not report.within(wanted.max_flips):
            raise TooManyFlips(report, wanted.max_flips)
        return report

    async def _whole(
        self,
        view: NamespaceView,
        head: Expect,
        candidate: PolicyCandidate,
        wanted: Activation,
        caller: Caller,
    ) -> Activated | None:
        """Make a candidate live; None: somebody changed the policies meanwhile."""
        changes = await asyncio.to_thread(candidate.changes_to, dict(view.policies))
        size = len(candidate.applied_to(view.policies))
        if size > self._max_policies:
            raise LimitExceeded("policies per namespace", limit=self._max_policies)
        present = len(view.policies)
        self._quotas.check(view.name, Quota.POLICIES, present, max(size - present, 0))
        if wanted.dry_run:
            return Activated(
                live_revision=view.policy_set.revision, changes=changes, stage=view.stage
            )
        stage = view.stage
        completed = stage is not None and stage.candidate_id == candidate.candidate_id
        change = PolicyChange(
            kind=ChangeKind.ACTIVATED,
            actor=caller.name,
            reason=wanted.reason,
            candidate_id=candidate.candidate_id,
        )
        steps = (
            *put_steps(view, head, changes, candidate.tests, change),
            *(end_of(stage) if completed else ()),
        )
        committed = await self._commit(
            view.name, steps, "ActivatePolicyRevision", change, wanted.request
        )
        if committed is None:
            return None
        return Activated(
            live_revision=committed.revision, changes=changes, stage=None if completed else stage
        )

    async def _staged(
        self,
        view: NamespaceView,
        candidate: PolicyCandidate,
        wanted: Activation,
        kind: StageKind,
        caller: Caller,
    ) -> Activated | None:
        """Try a candidate; None: somebody changed what it was judged on meanwhile."""
        written = Expect(revision=candidate.revision)
        conditions = [
            Require(Collection.POLICY_CANDIDATES, candidate.candidate_id, written),
            tests_as_seen(view),
        ]
        if wanted.expected_revision is not None:
            conditions.append(Require(Collection.POLICY_STAGES, HEAD_KEY, head_of(view)))
        stage = await self._stages.move(
            view,
            StageChange(
                candidate_id=wanted.candidate_id,
                kind=kind,
                percent=wanted.percent,
                conditions=tuple(conditions),
                reason=wanted.reason,
                dry_run=wanted.dry_run,
                request=wanted.request,
            ),
            caller=caller,
        )
        if stage is None:
            return None
        return Activated(live_revision=view.policy_set.revision, stage=stage)

    async def _commit(
        self,
        namespace: str,
        steps: Iterable[Step],
        method: str,
        change: PolicyChange,
        request: RequestKey | None,
    ) -> Committed | None:
        try:
            return await self._ledger.commit(
                Transaction(
                    namespace=namespace,
                    steps=tuple(steps),
                    audit=audit_of(method, change, request),
                    request=request,
                    answer=change.candidate_id or str(change.restored_from),
                )
            )
        except ConditionFailed:
            return None
