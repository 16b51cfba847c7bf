"""What replaces the live policies as a whole: the steps of one commit, and its audit."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from controlplane.domain.errors import LimitExceeded, RevisionConflict
from controlplane.domain.policies import PolicySet
from controlplane.domain.policy_sets.candidates import MAX_CHANGES, STAGE_KEY, PolicyStage
from controlplane.domain.policy_sets.history import ChangeKind, PolicyChange, PolicyDifference
from controlplane.domain.policy_sets.tests import PolicyTest, PolicyTests
from controlplane.services.policies.head import change_steps
from controlplane.services.policies.revisions import TESTS_KEY, tests_of
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Delete,
    Expect,
    Put,
    RequestKey,
    Require,
    Step,
)
from controlplane.services.read_model import NamespaceView

OBJECT = "policies"
"""What the audit says was changed."""


def put_steps(
    view: NamespaceView,
    head: Expect,
    changes: Sequence[PolicyDifference],
    tests: tuple[PolicyTest, ...] | None,
    change: PolicyChange,
) -> tuple[Step, ...]:
    """Return what brings changes to the live set, if its head and tests are as they were then."""
    if len(changes) > MAX_CHANGES:
        raise LimitExceeded("policies changed at once", limit=MAX_CHANGES)
    before = tests_of(view)
    steps: list[Step] = []
    for one in changes:
        seen = Expect(revision=0 if one.before is None else one.before.revision)
        if one.after is None:
            steps.append(Delete(Collection.POLICIES, one.policy_id, seen))
        else:
            written = replace(one.after, updated_by=change.actor)
            steps.append(Put(Collection.POLICIES, one.policy_id, written, seen))
    if tests is None or tests == before.tests:
        steps.append(tests_as_seen(view))
    else:
        fresh = PolicyTests(tests=tests, updated_by=change.actor)
        seen = Expect(revision=before.revision)
        steps.append(Put(Collection.POLICY_SETTINGS, TESTS_KEY, fresh, seen))
        change = replace(change, tests_before=before.tests, tests_after=tests)
    change = replace(
        change,
        before={one.policy_id: one.before for one in changes},
        after={one.policy_id: one.after for one in changes},
    )
    return (*steps, *change_steps(change, head))


def tests_as_seen(view: NamespaceView) -> Require:
    """Return the condition that the tests of the live set are those that were run."""
    seen = Expect(revision=tests_of(view).revision)
    return Require(Collection.POLICY_SETTINGS, TESTS_KEY, seen)


def check_live(view: NamespaceView, expected: int | None) -> None:
    """Refuse when the live set is not at the expected revision; None does not check.

    Raises:
        RevisionConflict: it is not.
    """
    current = view.policy_set.revision
    if expected not in {None, current}:
        raise RevisionConflict("the policies", expected=expected or 0, current=current)


def changed(rules: PolicySet, changes: Iterable[PolicyDifference]) -> PolicySet:
    """Return what would decide after these changes."""
    put = [one.after for one in changes if one.after is not None]
    gone = [one.policy_id for one in changes if one.after is None]
    return rules.with_candidate("", put=put, delete=gone)


def end_of(stage: PolicyStage | None) -> tuple[Step, ...]:
    """Return what ends a stage, on condition that it is as seen; None: there is none."""
    if stage is None:
        return ()
    return (Delete(Collection.POLICY_STAGES, STAGE_KEY, Expect(revision=stage.revision)),)


def audit_of(method: str, change: PolicyChange, request: RequestKey | None) -> AuditEntry:
    """Return what the audit says about a change of the whole set."""
    done = "activated" if change.kind is ChangeKind.ACTIVATED else "rolled_back"
    return AuditEntry(
        actor=change.actor,
        method=method,
        object=OBJECT,
        event=f"policy.set_{done}",
        reason=change.reason,
        request_id=request.request_id if request is not None else "",
        details=(
            {"candidate_id": change.candidate_id}
            if change.candidate_id
            else {"restored_from": str(change.restored_from)}
        ),
    )
