from controlplane.api.convert.decisions import KEPT_DECISIONS, DecisionBytes
from controlplane.api.wire import length_delimited
from controlplane.domain.errors import AgentNotFound
from controlplane.domain.policies import (
    Decision,
    DecisionReason,
    Effect,
    PolicyExplanation,
    PolicySet,
    Request,
    Truth,
)
from controlplane.services.policies.decisions import Answered
from fleetplane.v1 import policy_service_pb2 as pb


def decision(revision=7, **fields):
    return Decision(
        effect=Effect.DENY,
        reason=DecisionReason.POLICY,
        revision=revision,
        determining=("p-1", "p-2"),
        message="no " * 60,
        **fields,
    )


def answered(made, decision_id):
    asked = Request(agent_id="agt-1", action="read", facts={}, claims={}, now_ms=1)
    return Answered(made, decision_id, asked, PolicySet.compile((), revision=1))


def test_an_answer_is_the_message_it_stands_for():
    reply = DecisionBytes().response(answered(decision(), "dec-1"))

    assert pb.EvaluatePolicyResponse.FromString(reply) == pb.EvaluatePolicyResponse(
        decision=pb.PolicyDecision(
            action=pb.POLICY_ACTION_DENY,
            reason=pb.PolicyDecision.REASON_POLICY,
            message="no " * 60,
            determining_policies=["p-1", "p-2"],
            policy_revision=7,
            decision_id="dec-1",
        )
    )


def test_equal_answers_share_everything_but_their_id():
    rendered, shared = DecisionBytes(), decision()

    first, second = (
        pb.EvaluatePolicyResponse.FromString(rendered.response(answered(shared, name))).decision
        for name in ("dec-1", "dec-2")
    )

    assert (first.decision_id, second.decision_id) == ("dec-1", "dec-2")
    first.decision_id = second.decision_id
    assert first == second


def test_a_batch_holds_answers_and_refusals_in_order():
    reply = DecisionBytes().batch(
        9, [answered(decision(), "dec-1"), AgentNotFound("agt-2"), answered(decision(), "dec-3")]
    )

    batch = pb.BatchEvaluatePolicyResponse.FromString(reply)
    assert batch.policy_revision == 9
    assert [r.WhichOneof("outcome") for r in batch.results] == ["decision", "error", "decision"]
    assert batch.results[1].error.message
    assert batch.results[2].decision.decision_id == "dec-3"


def test_an_explained_answer_is_never_confused_with_another():
    rendered = DecisionBytes()
    for number in range(10):
        explained = decision(
            explanation=(
                PolicyExplanation(
                    policy_id=f"p-{number}",
                    effect=Effect.DENY,
                    priority=number,
                    applies=True,
                    result=Truth.TRUE,
                    matched=True,
                ),
            )
        )
        reply = rendered.response(answered(explained, "dec-1"))
        del explained  # the next one may get its address
        explanations = pb.EvaluatePolicyResponse.FromString(reply).decision.explanations
        assert [e.policy_id for e in explanations] == [f"p-{number}"]


def test_more_answers_than_are_kept_are_still_right():
    rendered = DecisionBytes()
    for revision in range(1, KEPT_DECISIONS + 10):
        reply = rendered.response(answered(decision(revision), "dec-1"))
    assert pb.EvaluatePolicyResponse.FromString(reply).decision.policy_revision == revision


def test_a_field_says_how_long_it_is():
    for size in (0, 1, 127, 128, 20_000):
        message = pb.EvaluatePolicyRequest.FromString(length_delimited(3, b"x" * size))
        assert message.action == "x" * size
