"""What several policies ask for together, and what votes are enough for."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.approvals.model import ANY_APPROVER, Approval, ApprovalDecision, Stage
from controlplane.domain.approvals.requirements import is_covered, joined
from controlplane.domain.approvals.votes import decided, granted
from controlplane.domain.policies import ApprovalRequirement
from fleetplane_policy.model import ApprovalStage
from fleetplane_policy.model import Escalation as AskedEscalation
from tests.fakes.approvals import NOW, approval, requirement, voter


@dataclass(frozen=True)
class Asking:
    approval: ApprovalRequirement | None


_subjects = st.sampled_from(("user:ann", "user:bob", "group:ops"))
_stages = st.builds(
    ApprovalStage,
    name=st.sampled_from(("", "first", "second")),
    quorum=st.integers(1, 3),
    eligible=st.lists(_subjects, max_size=2, unique=True).map(tuple),
    deny_quorum=st.integers(1, 3),
)
_requirements = st.builds(
    ApprovalRequirement,
    stages=st.lists(_stages, max_size=3).map(tuple),
    ttl_ms=st.integers(1_000, 10_000),
    use_window_ms=st.integers(1_000, 10_000),
    prevent_owner=st.booleans(),
    not_before_delay_ms=st.integers(0, 500),
    irreversible=st.booleans(),
)
_asking = st.lists(st.builds(Asking, st.none() | _requirements), max_size=4)


def test_who_asks_for_nothing_in_particular_asks_for_one_yes():
    (stage,) = joined([Asking(None)]).stages
    assert (stage.quorum, stage.deny_quorum, stage.eligible) == (1, 1, (ANY_APPROVER,))


def test_the_same_people_are_asked_once_and_the_higher_quorum_holds():
    two = ApprovalStage(name="ops", quorum=2, eligible=("group:ops",), deny_quorum=2)
    one = ApprovalStage(name="ops", quorum=1, eligible=("group:ops",), deny_quorum=1)
    (stage,) = joined(Asking(ApprovalRequirement(stages=(s,))) for s in (one, two)).stages
    assert (stage.quorum, stage.deny_quorum) == (2, 1)


def test_other_people_under_the_same_name_are_asked_too():
    stages = joined(
        Asking(ApprovalRequirement(stages=(ApprovalStage(name="ops", eligible=(who,)),)))
        for who in ("group:ops", "group:sec")
    ).stages
    assert [(s.name, s.eligible) for s in stages] == [
        ("ops", ("group:ops",)),
        ("ops-2", ("group:sec",)),
    ]


@given(_asking)
def test_whatever_one_asks_for_all_together_ask_for(policies):
    together = joined(policies)
    assert len({stage.name for stage in together.stages}) == len(together.stages)
    for policy in policies:
        alone = joined([policy])
        assert together.ttl_ms <= alone.ttl_ms
        assert together.use_window_ms <= alone.use_window_ms
        assert together.delay_ms >= alone.delay_ms
        assert together.prevent_owner >= alone.prevent_owner
        assert together.irreversible >= alone.irreversible
        for stage in alone.stages:
            assert any(
                set(other.eligible) == set(stage.eligible)
                and other.quorum >= stage.quorum
                and other.deny_quorum <= stage.deny_quorum
                for other in together.stages
            )


def test_escalations_stay_with_the_stages_of_their_policy():
    escalating = ApprovalRequirement(
        stages=(ApprovalStage(name="a", eligible=("user:ann",)),),
        escalations=(AskedEscalation(after_ms=1, eligible=("user:bob",)),),
    )
    other = ApprovalRequirement(stages=(ApprovalStage(name="b", eligible=("user:cid",)),))
    first, second = joined([Asking(escalating), Asking(other)]).stages
    assert (len(first.escalations), len(second.escalations)) == (1, 0)


class TestCovered:
    ANN, BOB = voter("user:ann"), voter("user:bob", "group:ops")

    def granted_by(self, *who, stages=(), **fields) -> Approval:
        asked = stages or (Stage(name="s", quorum=len(who)),)
        one = approval(*asked, **fields)
        for voting in who:
            one = decided(one, voting, ApprovalDecision.GRANT, comment="", vote_id="", now_ms=NOW)
        return one

    def test_by_what_was_asked_for(self):
        one = self.granted_by(self.ANN)
        assert is_covered(one, one.requirement, NOW)

    @pytest.mark.parametrize(
        ("wanted", "covered"),
        [
            ((Stage(name="x", quorum=2),), True),
            ((Stage(name="x", quorum=3),), False),
            ((Stage(name="x", eligible=("user:ann",)), Stage(name="y")), True),
            ((Stage(name="x"), Stage(name="y", eligible=("user:ann",))), True),
            ((Stage(name="x", eligible=("user:ann",), quorum=2),), False),
            ((Stage(name="x", eligible=("group:ops",)), Stage(name="y")), True),
            ((Stage(name="x", eligible=("user:cid",)),), False),
        ],
    )
    def test_by_the_votes_that_there_are_each_used_once(self, wanted, covered):
        one = self.granted_by(self.ANN, self.BOB)
        assert is_covered(one, requirement(*wanted), NOW) is covered

    def test_not_by_the_owner_if_that_is_forbidden_by_now(self):
        one = self.granted_by(self.ANN, agent_owner="ann")
        assert not is_covered(one, requirement(*one.requirement.stages, prevent_owner=True), NOW)

    def test_not_before_the_delay_that_is_asked_for_by_now(self):
        one = self.granted_by(self.ANN)
        wanted = requirement(delay_ms=10)
        assert not is_covered(one, wanted, NOW + 9)
        assert is_covered(one, wanted, NOW + 10)

    def test_a_standing_grant_covers_all_but_what_is_irreversible(self):
        one = granted(approval(standing_grant_id="sgr-1"), "in advance", NOW)
        assert is_covered(one, requirement(Stage(name="x", quorum=5)), NOW)
        assert not is_covered(one, requirement(irreversible=True), NOW)
