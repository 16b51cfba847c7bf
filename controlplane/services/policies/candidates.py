"""Candidates: changes to the policies that are written, checked and kept before they decide."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from controlplane.domain.errors import (
    FieldViolation,
    InvalidArgument,
    InvalidTransition,
    LimitExceeded,
    RevisionConflict,
)
from controlplane.domain.identity import Caller
from controlplane.domain.policies import Policy, PolicySet, compile_policies, lint
from controlplane.domain.policy_sets.candidates import (
    CANDIDATES_COUNTER,
    MAX_CANDIDATE_BYTES,
    MAX_CANDIDATES,
    MAX_CHANGES,
    STAGE_KEY,
    PolicyCandidate,
)
from controlplane.domain.policy_sets.history import PolicyDifference, differences
from controlplane.domain.policy_sets.refusals import PolicyCandidateNotFound
from controlplane.domain.policy_sets.tests import PolicyTest, require_valid_tests
from controlplane.services.policies.policy_tests import TestRuns
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Collection,
    ConditionFailed,
    Count,
    Delete,
    Expect,
    IdSource,
    Ledger,
    Put,
    RequestKey,
    Require,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

_encode: Final = msgspec.json.Encoder().encode

WARNINGS_SHOWN: Final = 200
"""Remarks of the linter in one answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateDraft:
    """What CreatePolicyCandidate asks for: a whole set, or changes to the live one."""

    whole: tuple[Policy, ...] | None = None
    """Every policy that shall be there; None: the changes below."""
    put: tuple[Policy, ...] = ()
    delete: tuple[str, ...] = ()
    tests: tuple[PolicyTest, ...] | None = None
    description: str = ""
    reason: str = ""
    expected_revision: int | None = None
    """Of the live set; None does not check."""
    dry_run: bool = False
    request: RequestKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateView:
    """A candidate, and what it comes to now."""

    candidate: PolicyCandidate
    changes: tuple[PolicyDifference, ...]
    """What it would change in the live set."""
    digest: str
    """Of the set that would be live."""
    live_revision: int
    warnings: tuple[str, ...] = ()
    failed_tests: Mapping[str, str] | None = None
    """Why tests fail, by name; None: they were not run."""


class Candidates:
    """Keeps the candidates of a namespace."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        ids: IdSource,
        runs: TestRuns,
        *,
        max_policies: int,
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._ids = ids
        self._runs = runs
        self._max_policies = max_policies

    async def create(
        self, namespace: str, draft: CandidateDraft, *, caller: Caller
    ) -> CandidateView:
        """Check a draft and keep it; returns it with the linter's remarks and failing tests.

        Raises:
            InvalidArgument: with every violation; a draft that changes nothing.
            RevisionConflict: the live set is not at the expected revision.
            LimitExceeded: too many candidates, changes or policies, or one that is too large.
        """
        view = self._read_model.view(namespace)
        if draft.request is not None:
            replay = await self._ledger.find_request(namespace, draft.request)
            if replay is not None:
                return await self.get(namespace, replay.answer, min_revision=replay.revision)
        live = view.policy_set.revision
        if draft.expected_revision not in {None, live}:
            raise RevisionConflict(
                "the policies", expected=draft.expected_revision or 0, current=live
            )
        candidate = replace(
            await asyncio.to_thread(self._checked, draft, dict(view.policies), view.policy_set),
            candidate_id=self._ids.new_id("pcd"),
            base_revision=live,
            created_by=caller.name,
        )
        shown = await self._shown(view, candidate)
        if draft.dry_run:
            return shown
        request = draft.request
        try:
            committed = await self._ledger.commit(
                Transaction(
                    namespace=namespace,
                    steps=(
                        Put(
                            Collection.POLICY_CANDIDATES,
                            candidate.candidate_id,
                            candidate,
                            ABSENT,
                        ),
                        Count(CANDIDATES_COUNTER, 1, at_most=MAX_CANDIDATES),
                    ),
                    audit=_audit(caller, "CreatePolicyCandidate", candidate, "created", request),
                    request=request,
                    answer=candidate.candidate_id,
                )
            )
        except ConditionFailed:
            raise LimitExceeded("policy candidates per namespace", limit=MAX_CANDIDATES) from None
        if committed.replayed:
            return await self.get(namespace, committed.answer, min_revision=committed.revision)
        stamped = replace(candidate, revision=committed.revision, created_at_ms=committed.at_ms)
        return replace(shown, candidate=stamped)

    async def get(self, namespace: str, candidate_id: str, *, min_revision: int) -> CandidateView:
        """Return one candidate with the linter's remarks and failing tests.

        Raises:
            PolicyCandidateNotFound: there is none.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        return await self._shown(view, candidate_of(view, candidate_id))

    async def list(self, namespace: str, *, min_revision: int) -> tuple[PolicyCandidate, ...]:
        """Return every candidate, newest first."""
        view = await self._read_model.at_least(namespace, min_revision)
        found = view.governance.table(Collection.POLICY_CANDIDATES).values()
        return tuple(sorted(found, key=lambda one: one.revision, reverse=True))

    async def kept(
        self, namespace: str, candidate_id: str
    ) -> tuple[NamespaceView, PolicyCandidate]:
        """Return a candidate and the copy that it is to be tried on.

        Raises:
            PolicyCandidateNotFound: there is none.
        """
        (record,) = await self._ledger.read(
            namespace, Collection.POLICY_CANDIDATES, (candidate_id,)
        )
        if record is None:
            raise PolicyCandidateNotFound(candidate_id)
        return await self._read_model.at_least(namespace, record.revision), record.value

    async def stated(
        self, namespace: str, draft: CandidateDraft
    ) -> tuple[NamespaceView, PolicyCandidate]:
        """Check a draft as `create` does, without keeping it.

        Raises:
            InvalidArgument: with every violation; a draft that changes nothing.
            LimitExceeded: it is too large.
        """
        view = self._read_model.view(namespace)
        candidate = await asyncio.to_thread(
            self._checked, draft, dict(view.policies), view.policy_set
        )
        return view, candidate

    async def delete(
        self,
        namespace: str,
        candidate_id: str,
        *,
        reason: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> int:
        """Remove a candidate; return the revision of that.

        Raises:
            PolicyCandidateNotFound: there is none.
            InvalidTransition: it is staged; stop that first.
        """
        if request is not None:
            replay = await self._ledger.find_request(namespace, request)
            if replay is not None:
                return replay.revision
        (record,) = await self._ledger.read(
            namespace, Collection.POLICY_CANDIDATES, (candidate_id,)
        )
        if record is None:
            raise PolicyCandidateNotFound(candidate_id)
        (stage,) = await self._ledger.read(namespace, Collection.POLICY_STAGES, (STAGE_KEY,))
        if stage is not None and stage.value.candidate_id == candidate_id:
            raise _is_staged(candidate_id)
        staged = 0 if stage is None else stage.revision
        candidate = replace(record.value, reason=reason)
        try:
            committed = await self._ledger.commit(
                Transaction(
                    namespace=namespace,
                    steps=(
                        Delete(
                            Collection.POLICY_CANDIDATES,
                            candidate_id,
                            Expect(revision=record.revision),
                        ),
                        Require(Collection.POLICY_STAGES, STAGE_KEY, Expect(revision=staged)),
                        Count(CANDIDATES_COUNTER, -1),
                    ),
                    audit=_audit(caller, "DeletePolicyCandidate", candidate, "deleted", request),
                    request=request,
                    answer=candidate_id,
                )
            )
        except ConditionFailed as failed:
            if failed.step == 0:
                raise PolicyCandidateNotFound(candidate_id) from None
            raise _is_staged(candidate_id) from None
        return committed.revision

    def _checked(
        self, draft: CandidateDraft, live: Mapping[str, Policy], rules: PolicySet
    ) -> PolicyCandidate:
        put, delete = _changes(draft, live)
        changed = len(put) + len(delete)
        if not changed and draft.tests is None:
            raise InvalidArgument.of("policies", "change nothing in the live set")
        if changed > MAX_CHANGES:
            raise LimitExceeded("policies that a candidate changes", limit=MAX_CHANGES)
        compile_policies(
            put,
            revision=rules.revision,
            default_effect=rules.default_effect,
            on_missing=rules.on_missing,
        )
        if draft.tests is not None:
            require_valid_tests(draft.tests)
        candidate = PolicyCandidate(
            candidate_id="",
            description=draft.description,
            put=put,
            delete=delete,
            tests=draft.tests,
            reason=draft.reason,
        )
        if len(candidate.applied_to(live)) > self._max_policies:
            raise LimitExceeded("policies per namespace", limit=self._max_policies)
        if len(_encode(put)) > MAX_CANDIDATE_BYTES:
            raise LimitExceeded("bytes of a candidate's policies", limit=MAX_CANDIDATE_BYTES)
        return candidate

    async def _shown(self, view: NamespaceView, candidate: PolicyCandidate) -> CandidateView:
        rules = await asyncio.to_thread(candidate.rules, view.policy_set)
        changes = await asyncio.to_thread(candidate.changes_to, dict(view.policies))
        warnings = await asyncio.to_thread(_warnings, rules, {one.policy_id for one in changes})
        return CandidateView(
            candidate=candidate,
            changes=changes,
            digest=rules.digest,
            live_revision=view.policy_set.revision,
            warnings=warnings,
            failed_tests=await self._runs.failures(view, rules, candidate.tests),
        )


def candidate_of(view: NamespaceView, candidate_id: str) -> PolicyCandidate:
    """Return a candidate as this copy has it.

    Raises:
        PolicyCandidateNotFound: it has none.
    """
    found: PolicyCandidate | None = view.governance.table(Collection.POLICY_CANDIDATES).get(
        candidate_id
    )
    if found is None:
        raise PolicyCandidateNotFound(candidate_id)
    return found


def _changes(
    draft: CandidateDraft, live: Mapping[str, Policy]
) -> tuple[tuple[Policy, ...], tuple[str, ...]]:
    """Return what a draft puts and deletes, ordered by id; equal policies are left out."""
    stated = draft.put if draft.whole is None else draft.whole
    wanted: dict[str, Policy] = {}
    for policy in stated:
        if policy.policy_id in wanted:
            raise InvalidArgument.of("policies", f"{policy.policy_id!r} is there twice")
        wanted[policy.policy_id] = policy
    if draft.whole is None:
        missing = [policy_id for policy_id in draft.delete if policy_id not in live]
        both = [policy_id for policy_id in draft.delete if policy_id in wanted]
        if missing or both:
            raise InvalidArgument(
                *(FieldViolation("delete", f"there is no policy {one!r}") for one in missing),
                *(FieldViolation("delete", f"{one!r} is also put") for one in both),
            )
        delete: Sequence[str] = sorted(set(draft.delete))
        before = {key: live[key] for key in wanted if key in live}
    else:
        delete = sorted(live.keys() - wanted.keys())
        before = {key: policy for key, policy in live.items() if key in wanted}
    put = tuple(one.after for one in differences(before, wanted) if one.after is not None)
    return put, tuple(delete)


def _warnings(rules: PolicySet, changed: set[str]) -> tuple[str, ...]:
    """Return what the linter says about the policies that a candidate changes."""
    found = lint(rules.policies, on_missing=rules.on_missing)
    about = (one.message for one in found if not changed.isdisjoint(one.policy_ids))
    return tuple(about)[:WARNINGS_SHOWN]


def _is_staged(candidate_id: str) -> InvalidTransition:
    what = f"candidate {candidate_id!r} (stop its stage first)"
    return InvalidTransition(what, current="STAGED", wanted="DELETED")


def _audit(
    caller: Caller,
    method: str,
    candidate: PolicyCandidate,
    what: str,
    request: RequestKey | None,
) -> AuditEntry:
    return AuditEntry(
        actor=caller.name,
        method=method,
        object=f"policies/candidates/{candidate.candidate_id}",
        event=f"policy.candidate_{what}",
        reason=candidate.reason,
        request_id=request.request_id if request is not None else "",
        details={"put": str(len(candidate.put)), "delete": str(len(candidate.delete))},
    )
