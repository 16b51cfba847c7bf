"""Votes that are judged again, and numbers at the end of what is exact."""

from dataclasses import replace

from controlplane.domain.approvals.digest import canonical
from controlplane.domain.approvals.model import ApprovalDecision, ApprovalState, Stage
from controlplane.domain.approvals.requirements import is_covered
from controlplane.domain.approvals.votes import decided, delegated
from tests.fakes.approvals import ACTION, NOW, NS, approval, requirement, voter


def test_a_vote_that_the_owner_handed_on_does_not_count_once_owners_are_kept_out() -> None:
    one = approval(Stage(name="approval"), agent_owner="ann")
    one = delegated(one, voter("user:ann"), "user:bob", until_ms=0, comment="", now_ms=NOW)
    bob = voter("user:bob", may_approve=False)
    one = decided(one, bob, ApprovalDecision.GRANT, comment="", vote_id="", now_ms=NOW)
    assert one.state is ApprovalState.GRANTED
    assert one.entries[-1].delegate == "user:ann"
    same = one.requirement.stages
    assert is_covered(one, requirement(*same), NOW)
    assert not is_covered(one, requirement(*same, prevent_owner=True), NOW)


def test_the_largest_whole_number_has_a_canonical_form_however_it_came() -> None:
    whole = replace(ACTION, context={"n": 2**53, "in": [{"n": -(2**53)}]})
    double = replace(ACTION, context={"n": 2.0**53, "in": [{"n": -(2.0**53)}]})
    assert canonical(NS, whole) == canonical(NS, double)
    assert b'"n":9007199254740992' in canonical(NS, whole)
