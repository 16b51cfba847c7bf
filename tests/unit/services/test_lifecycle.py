"""What operators do to the life of agents, and what beats can not undo."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.agents import (
    LOST,
    STOPPED,
    Activation,
    AgentSpec,
    AgentStatus,
    InstanceState,
    PendingActivation,
)
from controlplane.domain.errors import (
    AgentExists,
    AgentNotFound,
    InvalidArgument,
    InvalidTransition,
    RevisionConflict,
)
from controlplane.services.beats import Outcome
from controlplane.services.ids import TimeSortedIds
from controlplane.services.ports import RequestKey
from controlplane.services.registration import InstanceClaim, Registration
from controlplane.services.registry import Registry
from tests.fakes.fleet import NAMESPACE, FakeBeat
from tests.fakes.lifecycle_plane import CALLER, FollowingLedger, LifecyclePlane

S = AgentStatus


@pytest.fixture
def plane():
    return LifecyclePlane()


MOVES = [
    ("activate", S.REGISTERED, S.ACTIVE),
    ("activate", S.ACTIVE, S.ACTIVE),
    ("activate", S.DEGRADED, None),
    ("activate", S.INACTIVE, S.ACTIVE),
    ("activate", S.DECOMMISSIONED, None),
    ("deactivate", S.REGISTERED, S.INACTIVE),
    ("deactivate", S.ACTIVE, S.INACTIVE),
    ("deactivate", S.DEGRADED, S.INACTIVE),
    ("deactivate", S.INACTIVE, S.INACTIVE),
    ("deactivate", S.DECOMMISSIONED, None),
    ("decommission", S.REGISTERED, S.DECOMMISSIONED),
    ("decommission", S.ACTIVE, None),
    ("decommission", S.DEGRADED, None),
    ("decommission", S.INACTIVE, S.DECOMMISSIONED),
    ("decommission", S.DECOMMISSIONED, S.DECOMMISSIONED),
]
WANTED = {"activate": S.ACTIVE, "deactivate": S.INACTIVE, "decommission": S.DECOMMISSIONED}


@pytest.mark.parametrize(("call", "before", "after"), MOVES)
async def test_every_call_moves_an_agent_or_names_both_states(plane, call, before, after):
    await plane.in_status("a", before, "night" if before is S.INACTIVE else "")
    revision = plane.revision
    if after is None:
        with pytest.raises(InvalidTransition) as refused:
            await getattr(plane.ops, call)("a")
        metadata = refused.value.metadata
        assert metadata == {"current_state": before, "wanted_state": WANTED[call]}
        assert plane.revision == revision
        return
    await getattr(plane.ops, call)("a")
    assert (await plane.agent("a")).status is after
    assert (plane.revision == revision) is (before is after)  # idempotent: nothing was written


def test_the_table_names_every_pair_of_a_call_and_a_status():
    assert {(call, before) for call, before, _ in MOVES} == {(c, s) for c in WANTED for s in S}


async def test_an_unknown_agent_is_not_found(plane):
    await plane.replica.follow()
    for call in (plane.ops.activate, plane.ops.deactivate, plane.ops.decommission):
        with pytest.raises(AgentNotFound):
            await call("ghost")


async def test_a_stale_revision_is_refused(plane):
    agent = await plane.in_status("a", S.REGISTERED)
    await plane.change_agent("a", status_reason="x")
    for call in (plane.ops.activate, plane.ops.deactivate, plane.ops.decommission):
        with pytest.raises(RevisionConflict):
            await call("a", expected_revision=agent.revision)


async def test_a_repeated_request_changes_nothing(plane):
    await plane.in_status("a", S.REGISTERED)
    request = RequestKey("r1", "d")
    await plane.ops.activate("a", request=request)
    await plane.ops.deactivate("a", request=RequestKey("r2", "d"))
    revision = plane.revision
    assert (await plane.ops.activate("a", request=request)).status is S.INACTIVE
    assert plane.revision == revision


async def test_the_audit_says_who_moved_what_and_why(plane):
    await plane.in_status("a", S.REGISTERED)
    await plane.ops.activate("a", reason="go")
    await plane.ops.deactivate("a", reason="stop")
    await plane.ops.decommission("a", reason="old")
    for event, why in [("activated", "go"), ("deactivated", "stop"), ("decommissioned", "old")]:
        (entry,) = await plane.audits(f"agent.{event}")
        assert (entry.actor, entry.object, entry.reason) == ("ada", "agents/a", why)


# Deactivation


@pytest.mark.parametrize("reason", ["", LOST, STOPPED, "x" * 513])
async def test_reasons_that_mean_something_else_are_refused(plane, reason):
    await plane.in_status("a", S.ACTIVE)
    with pytest.raises(InvalidArgument):
        await plane.ops.deactivate("a", reason=reason)


@pytest.mark.parametrize("reason", [LOST, STOPPED])
async def test_what_fell_silent_is_stopped_for_good(plane, reason):
    await plane.in_status("a", S.INACTIVE, reason)
    outcome = await plane.ops.deactivate("a", reason="night")
    assert (outcome.agent.status, outcome.agent.status_reason) == (S.INACTIVE, "night")
    assert not outcome.agent.may_be_revived


async def test_a_deactivation_hands_over_and_clears_what_was_under_way(plane):
    await plane.in_status("a", S.ACTIVE)
    pending = PendingActivation(policies=("p",), config_digest="d", asked_by="x", asked_at_ms=1)
    await plane.change_agent("a", draining=True, pending=pending)
    outcome = await plane.ops.deactivate("a", reason="night")
    assert (outcome.agent.draining, outcome.agent.pending) == (False, None)
    assert (outcome.requeued, outcome.failed) == (2, 1)
    assert plane.ops.handed.asked == [("a", "night", "ada")]


async def test_a_beat_does_not_revive_what_was_deactivated(plane):
    generations = await plane.active("a", "i")
    await plane.ops.deactivate("a")
    plane.clock.shift(400)  # it falls silent meanwhile
    await plane.replica.sweep()
    await plane.replica.sweep()
    (answer,) = await plane.replica.beat(FakeBeat("i", generations["i"]))
    assert (answer.outcome, answer.detail) == (Outcome.INACTIVE, "night")
    assert (await plane.agent("a")).status is S.INACTIVE
    instance = await plane.instance("i")
    assert instance is not None
    assert instance.state is InstanceState.FRESH  # the process lives, the agent does not work


@given(order=st.permutations(["beat", "deactivate", "other", "follow"]), first=st.sampled_from(S))
@settings(max_examples=60, deadline=None)
def test_whoever_comes_first_a_deactivated_agent_stays_so(order, first):
    async def race() -> None:
        plane = LifecyclePlane()
        generations = await plane.register("a", "i", "j")
        other = await plane.another("two")
        if first is not S.DECOMMISSIONED:
            reason = LOST if first is S.INACTIVE else ""
            await plane.change_agent("a", status=first, status_reason=reason)
        beats = {"beat": plane.replica, "other": other.replica}

        async def step(what: str) -> None:
            if what == "deactivate":
                await plane.ops.deactivate("a")
            elif what == "follow":
                await other.replica.follow()
            else:
                name = "i" if what == "beat" else "j"
                await beats[what].beat(FakeBeat(name, generations[name]))

        await asyncio.gather(*(step(what) for what in order))
        for name, replica in (("i", plane.replica), ("j", other.replica)):
            await replica.follow()
            await replica.beat(FakeBeat(name, generations[name], seq=1))
        agent = await plane.agent("a")
        assert (agent.status, agent.status_reason) == (S.INACTIVE, "night")

    asyncio.run(race())


# Decommission


async def test_a_decommissioned_agent_loses_its_instances_and_keeps_its_name(plane):
    generations = await plane.active("a", "i", "j")
    await plane.ops.deactivate("a")
    agent, removed = await plane.ops.decommission("a")
    assert (agent.status, agent.status_reason, removed) == (S.DECOMMISSIONED, "old", 2)
    assert await plane.instance("i") is None
    assert plane.deadline_of("i") is None
    other = await plane.another("two")
    for replica in (plane.replica, other.replica):
        (answer,) = await replica.beat(FakeBeat("i", generations["i"]))
        assert answer.outcome is Outcome.GONE
    assert (await plane.ops.look("", "i")).safe_to_stop


async def test_an_instance_that_was_registered_at_the_same_time_goes_too(plane):
    await plane.active("a", "i")
    await plane.ops.deactivate("a")
    other = await plane.another("two")
    await plane.join("a", "late")  # the second replica has not heard of it
    _, removed = await other.decommission("a")
    assert removed == 2
    assert await plane.instance("late") is None


async def test_force_hands_over_before_it_retires(plane):
    await plane.active("a", "i")
    agent, removed = await plane.ops.decommission("a", force=True)
    assert (agent.status, removed) == (S.DECOMMISSIONED, 1)
    assert plane.ops.handed.asked == [("a", "old", "ada")]
    events = await plane.events()
    assert events.index("agent.deactivated") < events.index("agent.decommissioned")


async def test_force_does_not_mind_what_happens_to_the_agent_meanwhile(plane):
    await plane.active("a", "i")
    deactivate = plane.ops.lifecycle.deactivate

    async def late(*args, **kwargs):
        await plane.change_agent("a", status=S.DEGRADED)
        return await deactivate(*args, **kwargs)

    plane.ops.lifecycle.deactivate = late
    agent, _ = await plane.ops.decommission("a", force=True)
    assert agent.status is S.DECOMMISSIONED


async def test_nothing_may_be_registered_or_changed_under_the_name_of_a_retired_agent(plane):
    ledger = FollowingLedger(plane.replica)
    registry = Registry(ledger, plane.replica.read_model, TimeSortedIds(), plane.settings)
    await plane.replica.follow()
    spec = AgentSpec(name="w", version="1.0.0", activation=Activation.MANUAL)
    known = await registry.register(NAMESPACE, Registration(spec=spec), caller=CALLER)
    agent_id = known.agent.agent_id
    await plane.ops.decommission(agent_id)
    claims = [
        Registration(spec=spec),
        Registration(spec=spec, instance=InstanceClaim(instance_id="i")),
        Registration(spec=replace(spec, description="other")),
    ]
    for claim in claims:
        with pytest.raises(InvalidTransition):
            await registry.register(NAMESPACE, claim, caller=CALLER)
    with pytest.raises(AgentExists):
        await registry.register(
            NAMESPACE, Registration(spec=spec, agent_id="another"), caller=CALLER
        )
    with pytest.raises(InvalidTransition):
        await registry.update(
            NAMESPACE,
            agent_id,
            spec,
            ["description"],
            expected_revision=0,
            reason="",
            request=None,
            caller=CALLER,
        )
