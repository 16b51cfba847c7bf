"""Deciding in this process: for whom, how old, what is answered then, and the records."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest

from fleetplane import (
    ExplainLevel,
    FailMode,
    FleetError,
    InvalidArgument,
    NotFound,
    PolicyAction,
    StalePolicies,
    Unavailable,
)
from fleetplane._decision_reports import BATCH, DecisionBatch, DecisionRecorder
from fleetplane._details import StatusDetails
from fleetplane._fail_modes import FailModes
from fleetplane._local_policies import LocalPolicies
from fleetplane._policy_copy import HeldAgent, PolicyCopy
from fleetplane.v1 import policy_service_pb2 as pb
from fleetplane_policy import Effect, Policy, PolicySet
from tests.fakes.policy_feed import HeldFeed

RULES = PolicySet.compile(
    [
        Policy(policy_id="no-prod", action=Effect.DENY, conditions={"environment": "production"}),
        Policy(policy_id="ask", action=Effect.REQUIRE_APPROVAL, conditions={"action": "wire"}),
    ],
    revision=7,
)
HELD = HeldAgent({"agent_name": "w"}, "facts", "set", "sha256:set", RULES)


class Sink:
    """Where reports go; refuses as often as it is told to."""

    def __init__(self, *refusals: FleetError) -> None:
        self.refusals = list(refusals)
        self.heard = asyncio.Event()
        self.tried: list[DecisionBatch] = []
        self.taken: list[DecisionBatch] = []

    async def report(self, batch: DecisionBatch) -> None:
        self.tried.append(batch)
        if self.refusals:
            raise self.refusals.pop(0)
        self.taken.append(batch)
        self.heard.set()

    @property
    def ids(self) -> list[str]:
        return [one.decision_id for batch in self.taken for one in batch.records]


def here(
    feed: HeldFeed | None = None,
    *agent_ids: str,
    recorder: DecisionRecorder | None = None,
    max_staleness: float = 900.0,
    fail_mode: FailModes = FailMode.RAISE,
) -> LocalPolicies:
    return LocalPolicies(
        feed or HeldFeed(PolicyCopy({}, {"a": HELD, "gone": None})),  # type: ignore[arg-type]  # fake
        recorder,
        agent_ids or ("a",),
        max_staleness=max_staleness,
        fail_mode=fail_mode,
    )


@pytest.fixture
async def sink() -> Sink:
    return Sink()


@pytest.fixture
async def recorder(sink: Sink) -> AsyncIterator[DecisionRecorder]:
    recorder = DecisionRecorder(sink, limit=1000)
    yield recorder
    await recorder.aclose()


def test_an_answer_says_what_decided_and_how_old_the_copy_is() -> None:
    feed = HeldFeed(PolicyCopy({}, {"a": HELD}))
    feed.grow_old(20)
    decision = here(feed).decide("write", {"environment": "production"})
    assert decision.action == pb.POLICY_ACTION_DENY
    assert decision.determining_policies == ["no-prod"]
    assert decision.policy_revision == 7
    assert 20 <= decision.snapshot_age_seconds < 30
    assert decision.reason == pb.PolicyDecision.REASON_POLICY


def test_answers_have_ids_of_their_own_that_sort_by_time() -> None:
    policies = here()
    ids = [policies.decide("write").decision_id for _ in range(100)]
    assert ids == sorted(set(ids))
    assert ids[0].startswith("dec-019b")  # the daemon's clock, not this one's


def test_an_approval_is_asked_for_and_an_answer_can_be_explained() -> None:
    decision = here().decide("wire", explain=ExplainLevel.FULL)
    assert decision.action == pb.POLICY_ACTION_REQUIRE_APPROVAL
    assert {one.policy_id for one in decision.explanations} == {"no-prod", "ask"}


def test_an_answer_may_be_changed_without_harm_to_the_next() -> None:
    policies = here()
    policies.decide("wire").ClearField("determining_policies")
    assert policies.decide("wire").determining_policies == ["ask"]


def test_an_agent_that_is_not_registered_is_not_found() -> None:
    policies = here(None, "gone")
    with pytest.raises(NotFound) as refused:
        policies.decide("write")
    assert refused.value.reason == "AGENT_NOT_FOUND"
    assert refused.value.metadata == {"agent_id": "gone"}
    assert not policies.can_decide()


def test_an_agent_has_to_be_followed_and_named_if_there_are_several() -> None:
    policies = here(None, "a", "gone")
    with pytest.raises(ValueError, match="not followed"):
        policies.decide("write")
    with pytest.raises(ValueError, match="not followed"):
        policies.decide("write", agent_id="stranger")
    assert policies.decide("write", agent_id="a").action == pb.POLICY_ACTION_ALLOW
    with pytest.raises(ValueError, match="1-1000"):
        here(None, "")


def test_before_anything_is_heard_nothing_is_decided() -> None:
    feed = HeldFeed(PolicyCopy())
    feed.confirmed_at = -float("inf")
    with pytest.raises(StalePolicies, match="never heard"):
        here(feed).decide("write")
    feed.grow_old(0)
    with pytest.raises(StalePolicies, match="nothing is known about agent 'a' yet"):
        here(feed).decide("write")


@pytest.mark.parametrize(("action", "tool"), [("", ""), ("do it", ""), ("x", '"'), ("é", "a b")])
def test_malformed_names_are_refused_as_the_daemon_does(action: str, tool: str) -> None:
    with pytest.raises(InvalidArgument, match="1-256 characters") as refused:
        here().decide(action, tool=tool)
    assert refused.value.reason == "INVALID_FIELD"


def test_a_copy_that_is_too_old_does_not_decide() -> None:
    feed = HeldFeed(PolicyCopy({}, {"a": HELD}))
    policies = here(feed, max_staleness=60)
    feed.grow_old(59)
    assert policies.decide("write").action == pb.POLICY_ACTION_ALLOW
    feed.grow_old(61)
    with pytest.raises(StalePolicies, match="61 s old") as stale:
        policies.decide("write")
    assert isinstance(stale.value, Unavailable)
    feed.grow_old(0)
    assert policies.decide("write").action == pb.POLICY_ACTION_ALLOW


def test_fail_modes_go_by_action_and_the_first_that_matches_holds() -> None:
    feed = HeldFeed(PolicyCopy({}, {"a": HELD}))
    feed.grow_old(1_000)
    modes = {"read.secrets": "deny", "read.*": FailMode.ALLOW, "write.**": "deny"}
    policies = here(feed, fail_mode=modes)
    answers = {
        action: policies.decide(action, {"environment": "production"})
        for action in ("read.file", "read.secrets", "write.a.b")
    }
    assert [PolicyAction(one.action).name for one in answers.values()] == ["ALLOW", "DENY", "DENY"]
    for answer in answers.values():
        assert answer.reason == pb.PolicyDecision.REASON_SNAPSHOT_STALE
        assert answer.snapshot_age_seconds >= 1_000
        assert "older than 900 s" in answer.message
    with pytest.raises(StalePolicies):
        policies.decide("delete")
    assert here(feed, fail_mode="allow").decide("delete").action == pb.POLICY_ACTION_ALLOW


@pytest.mark.parametrize("modes", ["perhaps", {"x": "perhaps"}])
def test_a_fail_mode_that_does_not_exist_is_refused(modes: FailModes) -> None:
    with pytest.raises(ValueError, match="perhaps"):
        here(fail_mode=modes)


async def test_decisions_are_reported_as_they_were_made(
    recorder: DecisionRecorder, sink: Sink
) -> None:
    policies = here(recorder=recorder)
    context = {"environment": "production", "n": 1.0}
    decision = policies.decide("write", context, tool="sql", session_id="s-1")
    context["environment"] = "changed later"
    decision.message = "changed later"
    assert policies.unreported == 1
    await recorder.flush()
    assert policies.unreported == 0
    (batch,) = sink.taken
    (record,) = batch.records
    assert (batch.agent_id, batch.lost) == ("a", 0)
    assert (record.action, record.tool, record.session_id) == ("write", "sql", "s-1")
    assert record.claims == {"environment": "production", "n": 1}
    assert record.decision_id == decision.decision_id
    assert record.decision.message == "DENY by policy no-prod"
    assert record.policy_digest == "sha256:set"


async def test_reports_are_cut_and_told_by_agent(recorder: DecisionRecorder, sink: Sink) -> None:
    feed = HeldFeed(PolicyCopy({}, {"a": HELD, "b": HELD}))
    policies = here(feed, "a", "b", recorder=recorder)
    ids = [
        policies.decide("write", agent_id="ab"[number % 2]).decision_id
        for number in range(2 * BATCH + 1)
    ]
    await recorder.flush()
    assert sorted(sink.ids) == sorted(ids)
    assert max(len(batch.records) for batch in sink.taken) <= BATCH
    assert all(
        {record.agent_id for record in batch.records} == {batch.agent_id} for batch in sink.taken
    )


async def test_what_does_not_fit_is_dropped_oldest_first_and_told(sink: Sink) -> None:
    recorder = DecisionRecorder(sink, limit=10)
    policies = here(recorder=recorder)
    ids = [policies.decide("write").decision_id for _ in range(25)]
    assert (policies.unreported, policies.lost) == (10, 15)
    await recorder.flush()
    assert sink.ids == ids[15:]
    (batch,) = sink.taken
    assert batch.lost == 15
    assert 0 < batch.lost_from_ms <= batch.lost_to_ms <= batch.records[0].made_ms
    policies.decide("write")
    await recorder.flush()
    assert sink.taken[1].lost == 0  # told once
    await recorder.aclose()


async def test_a_report_that_fails_is_repeated_as_the_same_batch() -> None:
    sink = Sink(Unavailable("away"), Unavailable("away"))
    recorder = DecisionRecorder(sink)
    policies = here(recorder=recorder)
    ids = [policies.decide("write").decision_id]
    for _ in range(2):
        with pytest.raises(Unavailable):
            await recorder.flush()
        ids.append(policies.decide("write").decision_id)
    await recorder.flush()
    assert sink.ids == ids
    assert len({batch.batch_id for batch in sink.tried[:3]}) == 1
    await recorder.aclose()


async def test_a_report_that_is_refused_is_given_up_and_counted() -> None:
    wrong = InvalidArgument("no", StatusDetails(reason="INVALID_FIELD"))
    sink = Sink(wrong)
    recorder = DecisionRecorder(sink)
    policies = here(recorder=recorder)
    policies.decide("write")
    await recorder.flush()
    assert (sink.taken, policies.lost) == ([], 1)
    policies.decide("write")
    await recorder.flush()
    (batch,) = sink.taken
    assert (len(batch.records), batch.lost) == (1, 1)
    await recorder.aclose()


async def test_leaving_reports_what_is_left(sink: Sink) -> None:
    recorder = DecisionRecorder(sink)
    policies = here(recorder=recorder)
    ids = [policies.decide("write").decision_id for _ in range(3)]
    await recorder.aclose()
    assert sink.ids == ids


async def test_reports_go_out_by_themselves(recorder: DecisionRecorder, sink: Sink) -> None:
    decision = here(recorder=recorder).decide("write")
    async with asyncio.timeout(10):
        await sink.heard.wait()
    assert sink.ids == [decision.decision_id]


async def test_leaving_follows_no_longer() -> None:
    feed = HeldFeed(PolicyCopy({}, {"a": HELD}))
    async with here(feed) as policies:
        assert feed.users == ["a"]
        await policies.ready()
    await policies.aclose()
    assert feed.users == []


def test_without_the_extra_it_says_what_to_install() -> None:
    code = """
import asyncio, sys
sys.modules["re2"] = None
from fleetplane import FleetClient

async def main():
    async with FleetClient("127.0.0.1:1") as client:
        client.local_policies("a")

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install fleetplane-client[policies]" in done.stderr.splitlines()[-1]


def test_a_decision_costs_microseconds() -> None:
    """An order of magnitude: the figure itself is measured by `make bench`."""
    policies = here()
    context = {"environment": "staging", "estimated_cost": 0.4, "ticket": "OPS-1234"}
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(2_000):
            policies.decide("write", context)
        best = min(best, (time.perf_counter() - began) / 2_000)
    assert best < 50e-6
