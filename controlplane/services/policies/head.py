"""The head of the live policies: what makes a change of them a revision, with its history."""

from controlplane.domain.policy_sets.history import (
    HEAD_KEY,
    HISTORY,
    HISTORY_KEPT,
    PolicyChange,
    PolicyHead,
)
from controlplane.services.ports import ANY, Append, Collection, Expect, Put, Step
from controlplane.services.read_model import NamespaceView


def change_steps(change: PolicyChange, head: Expect = ANY) -> tuple[Step, ...]:
    """Return what makes a change of the live set a revision; `head`: only if it is as expected."""
    return (
        Put(Collection.POLICY_STAGES, HEAD_KEY, PolicyHead(kind=change.kind), head),
        Append(HISTORY, change, keep=HISTORY_KEPT),
    )


def head_of(view: NamespaceView) -> Expect:
    """Return the condition that the live set is as this copy has it."""
    head: PolicyHead | None = view.governance.table(Collection.POLICY_STAGES).get(HEAD_KEY)
    return Expect(revision=0 if head is None else head.revision)
