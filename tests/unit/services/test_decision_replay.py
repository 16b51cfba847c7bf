"""Recorded decisions are explained by the policies of then, or it is said that they are not."""

import pytest

from controlplane.domain.decisions.refusals import DecisionNotFound
from controlplane.domain.decisions.why_not import WhyNotReason
from controlplane.domain.policies import Effect, Policy, PolicySet
from controlplane.services.policies.decision_replay import DecisionReplay
from tests.fakes.decision_world import ADA, DecisionWorld
from tests.fakes.plane import NS

DENY = Policy(
    policy_id="no-writes",
    action=Effect.DENY,
    conditions={"action": "write", "environment": "production"},
)
CARD = Policy(
    policy_id="card",
    action=Effect.DENY,
    conditions={"attr": "claim.card", "op": "eq", "value": "4711"},
)


class Archive:
    def __init__(self, *known: PolicySet) -> None:
        self.known = {(rules.revision, rules.candidate_id): rules for rules in known}
        self.asked: list[tuple[int, str]] = []

    async def rules_at(self, namespace, revision, candidate_id=""):
        assert namespace == NS
        self.asked.append((revision, candidate_id))
        return self.known.get((revision, candidate_id))


async def changed(world: DecisionWorld) -> PolicySet:
    """Disable the policy; return the rules of before."""
    view = world.plane.read_model.view(NS)
    before = view.policy_set
    await world.plane.policies.update(
        NS,
        Policy(policy_id="no-writes", action=Effect.DENY, enabled=False),
        ["enabled"],
        expected_revision=0,
        reason="",
        request=None,
        dry_run=False,
        caller=ADA,
    )
    await world.plane.follow()
    return before


def replay_of(world: DecisionWorld, *known: PolicySet) -> DecisionReplay:
    return DecisionReplay(world.recorded, world.plane.read_model, Archive(*known))


async def test_todays_policies_explain_what_they_decided():
    world = await DecisionWorld().start(DENY)
    answer = world.asks("write", environment="production")
    await world.flush()

    explained = await replay_of(world).explain(NS, answer.decision_id)
    assert explained.by_recorded_revision
    assert explained.replayed.effect is Effect.DENY
    assert [one.policy_id for one in explained.replayed.explanation or ()] == ["no-writes"]
    assert explained.unreliable == ()
    assert explained.why_not is None


async def test_the_policies_of_then_explain_what_they_decided():
    world = await DecisionWorld().start(DENY)
    answer = world.asks("write", environment="production")
    await world.flush()
    before = await changed(world)

    explained = await replay_of(world, before).explain(NS, answer.decision_id)
    assert explained.by_recorded_revision
    assert explained.replayed.effect is Effect.DENY


async def test_without_them_those_of_today_do_and_it_is_said():
    world = await DecisionWorld().start(DENY)
    answer = world.asks("write", environment="production")
    await world.flush()
    await changed(world)

    explained = await replay_of(world).explain(NS, answer.decision_id)
    assert not explained.by_recorded_revision
    assert explained.replayed.effect is Effect.ALLOW
    assert explained.recorded.decision.effect is Effect.DENY


async def test_an_archive_that_has_something_else_is_not_believed():
    world = await DecisionWorld().start(DENY)
    answer = world.asks("write", environment="production")
    await world.flush()
    before = await changed(world)
    other = PolicySet.compile([CARD], revision=before.revision)

    explained = await replay_of(world, other).explain(NS, answer.decision_id)
    assert not explained.by_recorded_revision


async def test_policies_that_read_masked_values_are_named():
    world = await DecisionWorld().start(DENY, CARD, masked=["card"])
    answer = world.asks("write", environment="production", card="4711")
    assert answer.decision.determining == ("card", "no-writes")
    await world.flush()

    explained = await replay_of(world).explain(NS, answer.decision_id)
    assert explained.replayed.determining == ("no-writes",)
    assert explained.unreliable == ("card",)


async def test_why_not_is_answered_on_the_same_revision():
    world = await DecisionWorld().start(DENY)
    answer = world.asks("read")
    await world.flush()
    replay = replay_of(world)

    explained = await replay.explain(NS, answer.decision_id, why_not_policy_id="no-writes")
    assert explained.why_not is not None
    assert explained.why_not.reason is WhyNotReason.CONDITION_FALSE
    explained = await replay.explain(NS, answer.decision_id, why_not_policy_id="none")
    assert explained.why_not is not None
    assert explained.why_not.reason is WhyNotReason.NOT_FOUND


async def test_what_is_not_recorded_is_not_explained():
    world = await DecisionWorld().start()
    answer = world.asks(dry_run=True)
    await world.clock.advance(60)

    with pytest.raises(DecisionNotFound):
        await replay_of(world).explain(NS, answer.decision_id)
