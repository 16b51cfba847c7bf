"""One person with several credentials is one person when it comes to votes."""

import pytest

from controlplane.domain.access.records import ApiToken
from controlplane.domain.approvals.model import ApprovalState
from controlplane.domain.approvals.refusals import NotEligible, SelfApproval
from controlplane.domain.identity import Caller, CallerKind
from controlplane.domain.policies import ApprovalRequirement, Effect
from fleetplane_policy.model import ApprovalStage
from tests.fakes.approval_desk import ANN, BOB, CID, Desk, desk_with_a_policy

S = ApprovalState


def bot(desk: Desk, token_id: str, made_by: str) -> Caller:
    name = f"token:{token_id}"
    record = ApiToken(
        token_id=token_id, namespace="default", name=token_id, digest="", created_by=made_by
    )
    desk.plane.replica.read_model.access.api_tokens[token_id] = record
    return Caller(name=name, kind=CallerKind.API_TOKEN, subjects=(name,), token_id=token_id)


@pytest.fixture
async def desk() -> Desk:
    return await desk_with_a_policy()


async def test_who_asked_does_not_approve_by_a_token_of_his_own(desk: Desk) -> None:
    approval = await desk.ask(who=ANN)
    first = bot(desk, "at-1", "user:ann")
    for who in (first, bot(desk, "at-2", first.name)):  # one that was made by the other
        with pytest.raises(SelfApproval):
            await desk.vote(approval, who=who)
    assert (await desk.vote(approval, who=bot(desk, "at-3", "user:bob"))).state is S.GRANTED


async def test_what_a_program_asks_its_maker_may_approve(desk: Desk) -> None:
    approval = await desk.ask(who=bot(desk, "at-1", "user:ann"))
    assert (await desk.vote(approval, who=ANN)).state is S.GRANTED


async def test_a_person_is_one_voice_of_a_quorum(desk: Desk) -> None:
    two = ApprovalRequirement(stages=(ApprovalStage(name="two", quorum=2),))
    await desk.policy(Effect.REQUIRE_APPROVAL, approval=two)
    approval = await desk.ask(who=ANN)
    await desk.vote(approval, who=bot(desk, "at-1", "user:bob"))
    for who in (BOB, bot(desk, "at-2", "user:bob")):
        with pytest.raises(NotEligible):
            await desk.vote(approval, who=who)
    assert (await desk.vote(approval, who=CID)).state is S.GRANTED


async def test_tokens_that_no_person_made_are_told_apart(desk: Desk) -> None:
    two = ApprovalRequirement(stages=(ApprovalStage(name="two", quorum=2),))
    await desk.policy(Effect.REQUIRE_APPROVAL, approval=two)
    approval = await desk.ask(who=ANN)
    await desk.vote(approval, who=bot(desk, "at-1", "token:root"))
    assert (await desk.vote(approval, who=bot(desk, "at-2", "token:root"))).state is S.GRANTED
