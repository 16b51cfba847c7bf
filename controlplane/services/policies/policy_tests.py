"""Tests of policies: kept with the live set, run before anything replaces it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from controlplane.domain.errors import RevisionConflict, StoreUnavailable
from controlplane.domain.identity import Caller
from controlplane.domain.policies import PolicySet
from controlplane.domain.policy_sets.history import HISTORY, HISTORY_KEPT, ChangeKind, PolicyChange
from controlplane.domain.policy_sets.refusals import PolicyTestsFailed
from controlplane.domain.policy_sets.tests import (
    PolicyTest,
    PolicyTests,
    failures,
    require_valid_tests,
)
from controlplane.services.policies.decisions import facts_of
from controlplane.services.policies.revisions import TESTS_KEY, tests_of
from controlplane.services.policies.settings import MAX_ATTEMPTS
from controlplane.services.ports import (
    Append,
    AuditEntry,
    Clock,
    Collection,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel


@dataclass(frozen=True, slots=True, kw_only=True)
class TestsChange:
    """What ReplacePolicyTests asks for."""

    __test__ = False  # a value of the product, whatever its name says to a test runner

    tests: tuple[PolicyTest, ...]
    expected_revision: int | None = None
    """Of the tests; None does not check, 0: there were never any."""
    reason: str = ""
    dry_run: bool = False
    request: RequestKey | None = None


class TestRuns:
    """Runs tests, on the facts of today."""

    __test__ = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def failures(
        self, view: NamespaceView, rules: PolicySet, tests: Sequence[PolicyTest] | None
    ) -> Mapping[str, str]:
        """Run tests (None: those of the live set) on a set; return why each one fails, by name."""

        def known(agent_id: str) -> Mapping[str, Any] | None:
            entry = view.agents.get(agent_id)
            return None if entry is None else facts_of(view.name, entry.agent)

        return failures(
            rules,
            tests_of(view).tests if tests is None else tests,
            namespace=view.name,
            facts_of=known,
            now_ms=self._clock.store_ms(),
        )

    async def require(
        self, view: NamespaceView, rules: PolicySet, tests: Sequence[PolicyTest] | None
    ) -> None:
        """Refuse a set that fails its tests.

        Raises:
            PolicyTestsFailed: naming them.
        """
        failed = await self.failures(view, rules, tests)
        if failed:
            raise PolicyTestsFailed(failed)


class LiveTests:
    """Keeps the tests of the live set."""

    def __init__(self, ledger: Ledger, read_model: ReadModel, runs: TestRuns) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._runs = runs

    async def get(
        self, namespace: str, *, min_revision: int
    ) -> tuple[PolicyTests, Mapping[str, str]]:
        """Return the tests, and why those fail that do."""
        view = await self._read_model.at_least(namespace, min_revision)
        return tests_of(view), await self._runs.failures(view, view.policy_set, None)

    async def put(
        self, namespace: str, change: TestsChange, *, caller: Caller
    ) -> tuple[PolicyTests, Mapping[str, str]]:
        """Set the tests as a whole; tests that fail now are kept and reported.

        Raises:
            InvalidArgument: with every violation.
            RevisionConflict: they are not at the expected revision.
        """
        require_valid_tests(change.tests)
        view = self._read_model.view(namespace)
        failed = await self._runs.failures(view, view.policy_set, change.tests)
        for _ in range(MAX_ATTEMPTS):
            (record,) = await self._ledger.read(namespace, Collection.POLICY_SETTINGS, (TESTS_KEY,))
            current = PolicyTests() if record is None else record.value
            request = change.request
            if request is not None and await self._ledger.find_request(namespace, request):
                return current, failed
            if change.expected_revision not in {None, current.revision}:
                raise RevisionConflict(
                    "the policy tests",
                    expected=change.expected_revision or 0,
                    current=current.revision,
                )
            fresh = PolicyTests(tests=change.tests, updated_by=caller.name)
            if change.tests == current.tests:
                return current, failed
            if change.dry_run:
                return fresh, failed
            try:
                committed = await self._ledger.commit(
                    _transaction(namespace, fresh, current, change, caller)
                )
            except ConditionFailed:
                continue
            stamped = replace(fresh, revision=committed.revision, updated_at_ms=committed.at_ms)
            return stamped, failed
        raise StoreUnavailable("too many callers change these tests at once")


def _transaction(
    namespace: str, fresh: PolicyTests, current: PolicyTests, change: TestsChange, caller: Caller
) -> Transaction:
    request = change.request
    recorded = PolicyChange(
        kind=ChangeKind.TESTS,
        actor=caller.name,
        reason=change.reason,
        tests_before=current.tests,
        tests_after=fresh.tests,
    )
    return Transaction(
        namespace=namespace,
        steps=(
            Put(Collection.POLICY_SETTINGS, TESTS_KEY, fresh, Expect(revision=current.revision)),
            # No new head: what decides is the same.
            Append(HISTORY, recorded, keep=HISTORY_KEPT),
        ),
        audit=AuditEntry(
            actor=caller.name,
            method="ReplacePolicyTests",
            object="policies/tests",
            event="policy.tests_replaced",
            reason=change.reason,
            request_id=request.request_id if request is not None else "",
            details={"tests": str(len(fresh.tests))},
        ),
        request=request,
        answer=TESTS_KEY,
    )
