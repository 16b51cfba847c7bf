"""How a namespace ends: what holds it, who finishes, and what the next one of its name finds."""

import asyncio
from itertools import groupby
from typing import Any

import pytest

from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.records import (
    SYSTEM_NAMESPACE,
    ApiToken,
    Ban,
    JoinToken,
    RoleBinding,
    TokenUse,
    uses_counter,
)
from controlplane.domain.access.refusals import NamespaceNotEmpty, NamespaceTerminating
from controlplane.domain.agents import AgentStatus
from controlplane.domain.configs import LayerKind, LayerScope
from controlplane.domain.drains import Drain, EmergencyStop
from controlplane.domain.errors import InvalidArgument, NotReady, RevisionConflict, StoreUnavailable
from controlplane.domain.experiments.counters import Counters
from controlplane.domain.experiments.model import (
    Experiment,
    ExperimentState,
    Exposure,
    Metric,
    Phase,
    Plan,
    Subject,
    SubjectKind,
    Variant,
    unit_key,
    units_history,
)
from controlplane.domain.namespaces import NamespaceState
from controlplane.domain.policies import Effect, Policy
from controlplane.domain.routes import Route, SessionPin
from controlplane.domain.tasks import Task, TaskSpec, TaskState
from controlplane.services.configs import ConfigChange
from controlplane.services.namespaces.removal import ABANDONED_SECONDS, SETTLE_SECONDS
from controlplane.services.ports import (
    Append,
    AuditEntry,
    Collection,
    Count,
    Put,
    Step,
    Transaction,
)
from controlplane.tasks.namespace_reconciler import NamespaceReconciler
from tests.fakes.namespace_plane import ADA, NamespacePlane, NamespaceReplica

AUDIT = AuditEntry(actor="ada", method="Test", object="test")
POLICY = Policy(policy_id="p", action=Effect.DENY, match_all=True)
_VARIANTS = (Variant(name="a", weight_bp=10_000, control=True),)
ENDED_EXPERIMENT = Experiment(
    key="tone",
    subject=Subject(kind=SubjectKind.PROMPT, name="tone"),
    plan=Plan(primary=Metric(name="solved")),
    variants=_VARIANTS,
    state=ExperimentState.STOPPED,
    phases=(Phase(number=1, variants=_VARIANTS, coverage_bp=10_000, started_at_ms=1),),
)
EXPOSURE = Exposure(unit="s-1", variant="a", digest="d", exposed_at_ms=1)
TEAM = LayerScope(LayerKind.NAMESPACE)


@pytest.fixture
async def plane() -> NamespacePlane:
    plane = NamespacePlane()
    await plane.create("team-a")
    return plane


async def write(at: NamespaceReplica, namespace: str, *steps: Step) -> None:
    await at.ledger.commit(Transaction(namespace=namespace, steps=steps, audit=AUDIT))


async def removed(plane: NamespaceReplica, name: str = "team-a") -> bool:
    """Remove a namespace, and let the time pass that it takes."""
    removal = asyncio.ensure_future(plane.delete(name))
    await plane.clock.advance(SETTLE_SECONDS + 1)
    async with asyncio.timeout(5):
        return await removal


async def set_layer(at: NamespaceReplica, **change: Any) -> None:
    await at.configs.update("team-a", ConfigChange(scope=TEAM, **change), caller=ADA)


def task(state: TaskState) -> Put:
    made = Task(task_id=f"tsk-{state.value}", spec=TaskSpec(agent_name="x"), state=state)
    return Put(Collection.TASKS, made.task_id, made)


CLEARED = ["namespace.inspected", "namespace.cleared", "namespace.inspected"]
"""What a namespace that holds nothing keeps in its audit about its removal."""


def terminates(plane: NamespaceReplica) -> bool:
    return plane.namespaces.get("team-a").state is NamespaceState.TERMINATING


async def test_an_empty_namespace_is_removed_once_everybody_knows(plane: NamespacePlane):
    removal = asyncio.ensure_future(plane.delete("team-a"))
    await plane.clock.advance(SETTLE_SECONDS - 0.1)
    assert not removal.done()
    assert terminates(plane)
    with pytest.raises(NamespaceTerminating):
        plane.authoriser.authorise(ADA, Permission.OPERATE, "team-a")
    await plane.clock.advance(0.2)
    async with asyncio.timeout(5):
        assert await removal
    assert "team-a" not in plane.read_model.access.namespaces
    assert await plane.audit() == [
        "namespace.created",
        "namespace.terminating",
        "namespace.deleted",
    ]
    assert await plane.audit("team-a") == CLEARED


async def test_removing_what_is_not_there_does_nothing(plane: NamespacePlane):
    assert await removed(plane)
    assert not await plane.delete("team-a")
    assert not await plane.delete("team-b")


async def test_default_cannot_be_removed(plane: NamespacePlane):
    with pytest.raises(InvalidArgument):
        await plane.delete("default")


async def test_a_stale_revision_is_refused(plane: NamespacePlane):
    changed = await plane.bound("team-a", agents=1)
    with pytest.raises(RevisionConflict):
        await plane.delete("team-a", expected_revision=changed.revision - 1)
    assert not terminates(plane)


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (Put(Collection.ROUTES, "x", Route(name="x", shares=(), salt="")), "routes"),
        (Put(Collection.POLICIES, "p", POLICY), "policies"),
        (Put(Collection.ACTIVE_ROLLOUTS, "x", "ro-1"), "active_rollouts"),
        (Put(Collection.ACTIVE_EXPERIMENTS, "PROMPT/x", "tone"), "running_experiments"),
        (task(TaskState.PENDING), "unfinished_tasks"),
        (task(TaskState.ASSIGNED), "unfinished_tasks"),
        (task(TaskState.RUNNING), "unfinished_tasks"),
    ],
)
async def test_what_is_there_holds_a_namespace(plane: NamespacePlane, step: Put, kind: str):
    await write(plane, "team-a", step)
    with pytest.raises(NamespaceNotEmpty) as refused:
        await plane.delete("team-a")
    assert refused.value.metadata == {"namespace": "team-a", kind: "1"}
    assert not terminates(plane)


async def test_agents_and_configuration_hold_a_namespace(plane: NamespacePlane):
    await plane.register("team-a", "reader")
    await set_layer(plane, set_={"temperature": 0.5})
    with pytest.raises(NamespaceNotEmpty, match="1 agents, 1 config_layers"):
        await plane.delete("team-a")


async def leave_what_has_ended(plane: NamespaceReplica) -> None:
    """Fill a namespace with what does not hold it."""
    agent = (await plane.register("team-a", "reader")).agent
    gone = agent.moved(AgentStatus.DECOMMISSIONED, "")
    drain = Drain(agent_id=agent.agent_id)
    pin = SessionPin(name="x", session_id="s", agent_id="a", used_at_ms=1)
    stop = EmergencyStop(stop_id="st", settled=True)
    await write(
        plane,
        "team-a",
        Put(Collection.AGENTS, agent.agent_id, gone),
        task(TaskState.SUCCEEDED),
        task(TaskState.FAILED),
        Put(Collection.TASK_DATA, "tsk-FAILED/payload", b"secret"),
        Put(Collection.SESSION_PINS, "x/s", pin),
        Put(Collection.DRAINS, drain.key, drain),
        Put(Collection.STOPS, "st", stop),
        Put(Collection.EXPERIMENTS, "tone", ENDED_EXPERIMENT),
        Put(Collection.EXPOSURES, unit_key("tone", 1, "s-1"), EXPOSURE),
        Append(units_history("tone"), [1, ["s-1"]]),
        Count(Counters("tone", 1).moves, 1),
    )
    await set_layer(plane, set_={"temperature": 0.5})
    await set_layer(plane, set_={}, unset=("temperature",))


async def test_what_has_ended_goes_with_its_namespace_and_its_audit_stays(plane: NamespacePlane):
    await leave_what_has_ended(plane)
    assert await removed(plane)
    state = plane.store.namespaces["team-a"]
    assert {name: keys for name, keys in state.records.items() if keys} == {}
    assert not any(state.histories.values())
    assert not state.counts
    events = await plane.audit("team-a")
    assert [event for event, _ in groupby(events)][-3:] == CLEARED
    assert "agent.registered" in events
    await plane.create("team-a")
    again = await plane.register("team-a", "reader")
    assert again.agent.status is AgentStatus.REGISTERED


async def test_rights_and_credentials_end_with_their_namespace(plane: NamespacePlane):
    await plane.create("team-b")
    for name in ("team-a", "team-b"):
        binding = RoleBinding(binding_id=name, subject="user:x", role="admin", namespace=name)
        token = ApiToken(token_id=name, namespace=name, name="ci", digest="d")
        join = JoinToken(
            token_id=name, namespace=name, agent_name_pattern="*", max_uses=1, digest="d"
        )
        await write(
            plane,
            SYSTEM_NAMESPACE,
            Put(Collection.ROLE_BINDINGS, name, binding),
            Put(Collection.API_TOKENS, name, token),
            Put(Collection.TOKEN_USES, name, TokenUse(token_id=name, at_ms=1)),
            Put(Collection.JOIN_TOKENS, name, join),
            Count(uses_counter(name), 1),
            Put(Collection.BANS, f"{name}/x", Ban(namespace=name, agent_name="x")),
        )
    assert await removed(plane)
    access = plane.read_model.access
    for left in (access.bindings, access.api_tokens, access.token_uses, access.join_tokens):
        assert set(left) == {"team-b"}
    assert set(access.bans) == {"team-b/x"}
    assert plane.store.namespaces[SYSTEM_NAMESPACE].counts == {uses_counter("team-b"): 1}


async def test_a_write_that_came_in_time_restores_the_namespace(plane: NamespacePlane):
    other = plane.another()
    removal = asyncio.ensure_future(plane.delete("team-a"))
    await plane.clock.advance(SETTLE_SECONDS / 2)
    await other.register("team-a", "reader")  # had been let in before; not followed here
    await plane.clock.advance(SETTLE_SECONDS)
    async with asyncio.timeout(5):
        with pytest.raises(NamespaceNotEmpty):
            await removal
    assert not terminates(plane)
    assert (await plane.audit())[-1] == "namespace.restored"
    plane.authoriser.authorise(ADA, Permission.OPERATE, "team-a")


async def test_a_layer_written_while_the_rest_is_cleared_is_kept(
    plane: NamespacePlane, monkeypatch: pytest.MonkeyPatch
):
    other = plane.another()
    await leave_what_has_ended(plane)
    commit, intruded = plane.ledger.commit, False

    async def intruding(transaction: Transaction) -> Any:
        nonlocal intruded
        if transaction.audit.event == "namespace.cleared" and not intruded:
            intruded = True
            await other.follow("team-a")
            await set_layer(other, set_={"temperature": 0.7})
        return await commit(transaction)

    monkeypatch.setattr(plane.ledger, "commit", intruding)
    with pytest.raises(NamespaceNotEmpty, match="1 config_layers"):
        await removed(plane)
    assert (await plane.follow("team-a")).layers["namespace"].values == {"temperature": 0.7}
    assert not terminates(plane)


async def test_two_removals_end_alike(plane: NamespacePlane):
    other = plane.another()
    await other.follow()
    both = asyncio.gather(plane.delete("team-a"), other.delete("team-a"))
    await plane.clock.advance(SETTLE_SECONDS + 1)
    async with asyncio.timeout(5):
        outcomes = await both
    assert any(outcomes)
    await other.follow()
    assert "team-a" not in other.read_model.access.namespaces


async def test_a_removal_that_nobody_waits_for_is_finished_by_another_replica(
    plane: NamespacePlane,
):
    removal = asyncio.ensure_future(plane.delete("team-a"))
    await plane.clock.advance(1)
    removal.cancel()
    await asyncio.gather(removal, return_exceptions=True)
    other = plane.another()
    await other.follow()
    loop = NamespaceReconciler(other.removal, plane.clock)
    await loop.round()
    assert loop.finished == 0  # somebody may still be at it
    plane.clock.shift(ABANDONED_SECONDS)
    await loop.round()
    assert loop.finished == 1
    await plane.follow()
    assert "team-a" not in plane.read_model.access.namespaces
    await NamespaceReconciler(plane.removal, plane.clock).round()
    assert (await other.audit())[-1] == "namespace.deleted"


async def test_the_loop_finishes_what_was_abandoned_with_something_in_it(plane: NamespacePlane):
    await plane.removal.begin(plane.namespaces.get("team-a"), reason="", caller=ADA)
    await plane.register("team-a", "reader")
    loop = NamespaceReconciler(plane.removal, plane.clock)
    running = asyncio.ensure_future(loop.run())
    await plane.clock.advance(ABANDONED_SECONDS + 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert loop.finished == 1
    assert not terminates(plane)


@pytest.mark.parametrize("failure", [StoreUnavailable(), NotReady()])
async def test_the_loop_outlives_a_store_that_is_away(
    plane: NamespacePlane, monkeypatch: pytest.MonkeyPatch, failure: Exception
):
    await plane.removal.begin(plane.namespaces.get("team-a"), reason="", caller=ADA)
    plane.clock.shift(ABANDONED_SECONDS)
    loop = NamespaceReconciler(plane.removal, plane.clock)

    async def fails(_: Transaction) -> Any:
        raise failure

    with monkeypatch.context() as away:
        away.setattr(plane.ledger, "commit", fails)
        await loop.round()
    assert (loop.failures, loop.finished) == (1, 0)
    await loop.round()
    assert loop.finished == 1


async def test_without_authentication_what_is_used_is_not_removed():
    plane = NamespacePlane(authenticates=False)
    await plane.register("team-a", "reader")
    with pytest.raises(NamespaceNotEmpty):
        await plane.delete("team-a")
    await plane.create("team-b")
    assert await removed(plane, "team-b")
    assert [one.name for one in plane.namespaces.page(ADA, after="", limit=9).namespaces] == [
        "default",
        "team-a",
    ]
