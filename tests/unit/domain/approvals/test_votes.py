"""Who may say what about an approval, and what becomes of it."""

import pytest

from controlplane.domain.approvals.model import (
    MAX_ENTRIES,
    ROOM_FOR_VOTES,
    Approval,
    ApprovalDecision,
    ApprovalState,
    EntryKind,
    Escalation,
    Stage,
    Voter,
)
from controlplane.domain.approvals.refusals import (
    ApprovalExpired,
    ApprovalNotOpen,
    NotEligible,
    SelfApproval,
    VoteConflict,
)
from controlplane.domain.approvals.votes import decided, delegated, may_decide, may_decide_now
from controlplane.domain.errors import InvalidArgument, LimitExceeded
from tests.fakes.approvals import NOW, TTL, WINDOW, approval, voter

D, S = ApprovalDecision, ApprovalState
ANN, BOB, CID = voter("user:ann"), voter("user:bob"), voter("user:cid", "group:ops")


def vote(
    one: Approval, who: Voter, what: ApprovalDecision = D.GRANT, at: int = NOW, vote_id: str = ""
) -> Approval:
    return decided(one, who, what, comment="", vote_id=vote_id, now_ms=at)


def hand(one: Approval, who: Voter, to: str, *, until: int = 0) -> Approval:
    return delegated(one, who, to, until_ms=until, comment="", now_ms=NOW)


class TestQuorum:
    def test_one_yes_grants_by_default_and_the_window_begins(self):
        one = vote(approval(), BOB, at=NOW + 5)
        assert (one.state, one.granted_at_ms) == (S.GRANTED, NOW + 5)
        assert one.use_until_ms == NOW + 5 + WINDOW
        assert one.ended_at_ms == 0

    def test_two_have_to_be_two(self):
        one = vote(approval(Stage(name="s", quorum=2)), BOB)
        assert one.state is S.PENDING
        assert vote(one, BOB) is one
        assert vote(one, ANN).state is S.GRANTED

    def test_one_no_ends_it(self):
        one = vote(vote(approval(Stage(name="s", quorum=2)), BOB), ANN, D.DENY)
        assert (one.state, one.ended_at_ms) == (S.DENIED, NOW)
        assert one.state_reason == "denied by user:ann"

    def test_a_higher_quorum_of_denials_takes_as_many(self):
        one = vote(approval(Stage(name="s", deny_quorum=2)), BOB, D.DENY)
        assert one.state is S.PENDING
        assert vote(one, ANN, D.DENY).state is S.DENIED

    def test_a_vote_stands(self):
        one = vote(approval(Stage(name="s", quorum=2)), BOB)
        with pytest.raises(VoteConflict):
            vote(one, BOB, D.DENY)

    def test_a_vote_id_makes_a_retry_the_same_vote_even_when_all_is_decided(self):
        one = vote(approval(), BOB, vote_id="v")
        assert vote(one, BOB, vote_id="v") is one
        with pytest.raises(VoteConflict):
            vote(one, BOB, D.DENY, vote_id="v")

    def test_advice_counts_for_nothing_and_keeps_nobody_from_voting(self):
        one = vote(approval(), BOB, D.ADVISE)
        assert (one.state, one.entries[-1].kind) == (S.PENDING, EntryKind.ADVICE)
        assert vote(one, BOB).state is S.GRANTED

    def test_advice_is_bounded(self):
        one = approval()
        for number in range(MAX_ENTRIES - ROOM_FOR_VOTES - 1):
            one = vote(one, BOB, D.ADVISE, vote_id=str(number))
        with pytest.raises(LimitExceeded):
            vote(one, BOB, D.ADVISE)


class TestStages:
    TWO = (Stage(name="first", eligible=("user:ann",)), Stage(name="then", eligible=("group:ops",)))

    def test_stages_are_decided_in_order(self):
        one = approval(*self.TWO)
        with pytest.raises(NotEligible) as refused:
            vote(one, CID)
        assert refused.value.metadata["stage"] == "first"
        one = vote(one, ANN)
        assert may_decide_now(one, NOW) == ("group:ops",)
        assert vote(one, CID).state is S.GRANTED

    def test_nobody_fills_two_stages(self):
        both = voter("user:ann", "group:ops")
        one = vote(approval(*self.TWO), both)
        assert not may_decide(one, both, NOW)
        assert vote(one, both) is one

    def test_patterns_of_workloads_are_people_too(self):
        stage = Stage(name="s", eligible=("spiffe://prod/ops/*",))
        assert vote(approval(stage), voter("spiffe://prod/ops/robot")).state is S.GRANTED
        with pytest.raises(NotEligible):
            vote(approval(stage), voter("spiffe://prod/dev/robot"))


class TestWhoMayNot:
    def test_the_requester_and_those_who_wait_with_him(self):
        one = approval(waiters=("user:bob",))
        for who in (voter("spiffe:payer"), BOB):
            with pytest.raises(SelfApproval):
                vote(one, who)
            assert not may_decide(one, who, NOW)

    def test_the_agent_by_whatever_name(self):
        with pytest.raises(SelfApproval):
            vote(approval(requested_by="x"), voter("spiffe:other-box", agent_name="payer"))

    @pytest.mark.parametrize("owner", ["ann", "user:ann", "team"])
    def test_the_owner_if_a_policy_says_so(self, owner):
        ann = voter("user:ann", "group:team")
        assert vote(approval(agent_owner=owner), ann).state is S.GRANTED
        with pytest.raises(NotEligible, match="owns"):
            vote(approval(agent_owner=owner, prevent_owner=True), ann)

    def test_while_nobody_is_authenticated_nobody_can_be_told_apart(self):
        admin = Voter(name="local-admin", is_anybody=True)
        one = approval(requested_by="local-admin", unauthenticated=True)
        assert vote(one, admin).state is S.GRANTED

    def test_when_time_is_over(self):
        with pytest.raises(ApprovalExpired):
            vote(approval(), BOB, at=NOW + TTL)
        assert not may_decide(approval(), BOB, NOW + TTL)

    def test_when_it_has_ended(self):
        with pytest.raises(ApprovalNotOpen):
            vote(vote(approval(), ANN, D.DENY), BOB)


class TestEscalation:
    STAGE = Stage(
        name="s",
        eligible=("user:ann",),
        escalations=(Escalation(after_ms=1_000, eligible=("user:bob",)),),
    )

    def test_more_people_come_in_after_a_time_and_nobody_goes(self):
        one = approval(self.STAGE)
        with pytest.raises(NotEligible):
            vote(one, BOB, at=NOW + 999)
        assert vote(one, BOB, at=NOW + 1_000).state is S.GRANTED
        assert vote(one, ANN, at=NOW + 1_000).state is S.GRANTED


class TestDelegation:
    STAGE = Stage(name="s", eligible=("user:ann",))

    def test_a_vote_can_be_handed_on(self):
        one = hand(approval(self.STAGE), ANN, "user:bob")
        assert may_decide_now(one, NOW) == ("user:ann", "user:bob")
        one = vote(one, BOB)
        assert (one.state, one.entries[-1].delegate) == (S.GRANTED, "user:ann")

    def test_who_has_given_it_has_none(self):
        one = hand(approval(self.STAGE), ANN, "user:bob")
        with pytest.raises(NotEligible, match="delegated"):
            vote(one, ANN)
        with pytest.raises(NotEligible):
            hand(one, ANN, "user:cid")

    def test_who_has_got_it_cannot_pass_it_on(self):
        one = hand(approval(self.STAGE), ANN, "user:bob")
        with pytest.raises(NotEligible):
            hand(one, BOB, "user:cid")

    def test_it_holds_for_a_time(self):
        one = hand(approval(self.STAGE), ANN, "user:bob", until=NOW + 10)
        with pytest.raises(NotEligible):
            vote(one, BOB, at=NOW + 10)
        assert vote(one, BOB, at=NOW + 9).state is S.GRANTED

    def test_it_gives_nobody_two_votes(self):
        stage = Stage(name="s", eligible=("user:ann", "user:bob"), quorum=2)
        one = vote(hand(approval(stage), ANN, "user:bob"), BOB)
        assert (one.state, vote(one, BOB)) == (S.PENDING, one)

    @pytest.mark.parametrize(
        "to", ["group:ops", "nobody", "user:ann", "spiffe://prod/*", "spiffe:payer", ""]
    )
    def test_it_goes_to_one_who_may_have_it(self, to):
        with pytest.raises(InvalidArgument):
            hand(approval(self.STAGE), ANN, to)

    def test_who_asks_cannot_hand_it_on(self):
        with pytest.raises(SelfApproval):
            hand(approval(self.STAGE, requested_by="user:ann"), ANN, "user:bob")
