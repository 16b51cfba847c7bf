"""What becomes of an approval in time, and that what has ended never changes."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controlplane.domain.approvals import changes
from controlplane.domain.approvals.digest import is_unbroken
from controlplane.domain.approvals.model import (
    Approval,
    ApprovalDecision,
    ApprovalState,
    EntryKind,
    Escalation,
    Stage,
)
from controlplane.domain.approvals.refusals import (
    AlreadyConsumed,
    ApprovalExpired,
    ApprovalNotOpen,
    DigestMismatch,
)
from controlplane.domain.approvals.requirements import open_stage
from controlplane.domain.approvals.votes import decided, delegated
from controlplane.domain.errors import DomainError, InvalidArgument
from tests.fakes.approvals import ACTION, NOW, TTL, WINDOW, approval, voter

S = ApprovalState
BOB = voter("user:bob")
DAY = 24 * 3_600_000


def grant(one: Approval, at: int = NOW) -> Approval:
    return decided(one, BOB, ApprovalDecision.GRANT, comment="", vote_id="", now_ms=at)


def use(one: Approval, at: int = NOW, digest: str = "", **ceilings: float) -> None:
    said = ceilings or dict(ACTION.ceilings)
    changes.require_usable(one, digest or one.digest, said, at)


class TestExpiry:
    def test_nobody_decided(self):
        one = approval()
        assert changes.due(one, NOW + TTL - 1, plane="p") is None
        ended = changes.due(one, NOW + TTL, plane="p")
        assert ended is not None
        assert (ended.state, ended.ended_at_ms) == (S.EXPIRED, NOW + TTL)

    def test_nobody_used_it(self):
        one = grant(approval(), NOW + 7)
        assert changes.due(one, NOW + 7 + WINDOW - 1, plane="p") is None
        ended = changes.due(one, NOW + 7 + WINDOW, plane="p")
        assert ended is not None
        assert ended.state is S.EXPIRED

    def test_it_is_shown_before_it_is_written_down(self):
        shown = changes.seen(approval(), NOW + TTL)
        assert (shown.state, shown.ended_at_ms) == (S.EXPIRED, NOW + TTL)
        assert changes.seen(approval(), NOW + TTL - 1).state is S.PENDING

    def test_more_time_has_an_end(self):
        one = approval()
        with pytest.raises(InvalidArgument):
            changes.extended(one, NOW + DAY + 1, by="x", reason="r", now_ms=NOW)
        with pytest.raises(InvalidArgument):
            changes.extended(one, NOW, by="x", reason="r", now_ms=NOW)
        more = changes.extended(one, NOW + DAY, by="x", reason="r", now_ms=NOW)
        assert more.entries[-1].until_ms == more.expires_at_ms == NOW + DAY
        with pytest.raises(ApprovalExpired):
            changes.extended(one, NOW + DAY, by="x", reason="r", now_ms=NOW + TTL)

    def test_an_escalation_is_noted_once(self):
        stage = Stage(name="s", escalations=(Escalation(after_ms=10, eligible=("user:cid",)),))
        one = approval(stage)
        assert changes.next_due_ms(one) == NOW + 10
        noted = changes.due(one, NOW + 10, plane="p")
        assert noted is not None
        assert (noted.state, noted.entries[-1].kind) == (S.PENDING, EntryKind.ESCALATED)
        assert changes.due(noted, NOW + 11, plane="p") is None
        assert changes.next_due_ms(noted) == NOW + TTL


class TestUse:
    def test_a_grant_has_one_use(self):
        one = grant(approval())
        use(one)
        done = changes.consumed(one, "c", by="x", now_ms=NOW)
        assert (done.state, done.consume_id) == (S.CONSUMED, "c")
        with pytest.raises(AlreadyConsumed):
            use(done)

    def test_not_before_it_is_given_and_not_after_its_time(self):
        with pytest.raises(ApprovalNotOpen):
            use(approval())
        with pytest.raises(ApprovalExpired):
            use(grant(approval()), NOW + WINDOW)

    def test_a_delay_holds_it_back_and_the_window_begins_then(self):
        one = grant(approval(delay_ms=1_000))
        with pytest.raises(ApprovalNotOpen, match="yet"):
            use(one, NOW + 999)
        use(one, NOW + 1_000)
        use(one, NOW + 1_000 + WINDOW - 1)
        with pytest.raises(ApprovalExpired):
            use(one, NOW + 1_000 + WINDOW)

    def test_for_no_other_action_and_not_for_more(self):
        one = grant(approval())
        with pytest.raises(DigestMismatch):
            use(one, digest="sha256:0")
        with pytest.raises(DigestMismatch, match="above"):
            use(one, estimated_cost=2.6)
        use(one, estimated_cost=2.4)

    def test_the_first_reason_is_named(self):
        late = NOW + WINDOW
        with pytest.raises(ApprovalExpired):
            use(grant(approval()), late, digest="sha256:0")
        with pytest.raises(ApprovalNotOpen):
            use(approval(), late, digest="sha256:0")


def test_what_is_taken_back_twice_is_taken_back_once():
    one = changes.cancelled(approval(), by="x", reason="", now_ms=NOW)
    assert changes.cancelled(one, by="y", reason="", now_ms=NOW) is one
    two = changes.revoked(grant(approval()), by="x", reason="r", now_ms=NOW)
    assert changes.revoked(two, by="y", reason="", now_ms=NOW) is two
    for wrong in (lambda: changes.revoked(one, by="x", reason="", now_ms=NOW),):
        with pytest.raises(ApprovalNotOpen):
            wrong()


class ApprovalLife(RuleBasedStateMachine):
    """Everybody does everything, in any order, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        stages = (
            Stage(
                name="one",
                quorum=2,
                escalations=(Escalation(after_ms=50, eligible=("user:late",)),),
            ),
            Stage(name="two", eligible=("user:v3", "user:v4"), deny_quorum=2),
        )
        self.now = NOW
        self.approval = approval(*stages, ttl_ms=2_000, use_window_ms=1_000, delay_ms=100)
        self.ended: Approval | None = None

    def become(self, change) -> None:
        try:
            after = change()
        except DomainError:
            return
        if after is not None:
            self.approval = after
        if self.ended is None and not self.approval.state.is_open:
            self.ended = self.approval

    @rule(
        who=st.integers(0, 4),
        what=st.sampled_from(ApprovalDecision),
        vote_id=st.sampled_from(("", "v")),
    )
    def vote(self, who: int, what: ApprovalDecision, vote_id: str) -> None:
        name = voter(f"user:v{who}")
        self.become(
            lambda: decided(self.approval, name, what, comment="", vote_id=vote_id, now_ms=self.now)
        )

    @rule(who=st.integers(0, 4), to=st.integers(0, 4))
    def delegate(self, who: int, to: int) -> None:
        self.become(
            lambda: delegated(
                self.approval,
                voter(f"user:v{who}"),
                f"user:v{to}",
                until_ms=0,
                comment="",
                now_ms=self.now,
            )
        )

    @rule()
    def cancel(self) -> None:
        self.become(lambda: changes.cancelled(self.approval, by="x", reason="", now_ms=self.now))

    @rule()
    def revoke(self) -> None:
        self.become(lambda: changes.revoked(self.approval, by="x", reason="", now_ms=self.now))

    @rule(milliseconds=st.integers(1, 3_000))
    def extend(self, milliseconds: int) -> None:
        until = self.now + milliseconds
        self.become(
            lambda: changes.extended(self.approval, until, by="x", reason="r", now_ms=self.now)
        )

    @rule(consume_id=st.sampled_from("ab"))
    def consume(self, consume_id: str) -> None:
        def change() -> Approval:
            use(self.approval, self.now)
            return changes.consumed(self.approval, consume_id, by="x", now_ms=self.now)

        self.become(change)

    @rule(milliseconds=st.integers(1, 700))
    def pass_time(self, milliseconds: int) -> None:
        self.now += milliseconds

    @rule()
    def sweep(self) -> None:
        before = self.approval
        self.become(lambda: changes.due(self.approval, self.now, plane="p"))
        if self.approval.state is S.GRANTED:
            assert before.state is S.GRANTED, "time has granted something"

    @invariant()
    def what_has_ended_never_changes(self) -> None:
        if self.ended is not None:
            assert self.approval == self.ended

    @invariant()
    def the_record_is_unbroken(self) -> None:
        assert is_unbroken(self.approval.digest, self.approval.entries)

    @invariant()
    def a_grant_has_its_votes(self) -> None:
        if self.approval.granted_at_ms:
            assert open_stage(self.approval) is None
            voters = [e.by for e in self.approval.entries if e.kind is EntryKind.GRANT]
            assert len(voters) == len(set(voters))

    @invariant()
    def only_what_was_granted_is_used(self) -> None:
        if self.approval.state is S.CONSUMED:
            assert 0 < self.approval.granted_at_ms <= self.approval.ended_at_ms
            assert self.approval.ended_at_ms < self.approval.use_until_ms
            assert self.approval.ended_at_ms >= self.approval.not_before_ms

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        if self.approval.state.is_open:
            assert changes.next_end_ms(self.approval) <= NOW + DAY + 1_000
            late = replace(self.approval)
            ended = changes.due(late, NOW + 2 * DAY, plane="p")
            assert ended is not None
            assert ended.state is S.EXPIRED


TestApprovalLife = ApprovalLife.TestCase
TestApprovalLife.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
