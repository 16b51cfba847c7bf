"""How users write against the SDK: checked by mypy --strict and pyright, never run."""

import asyncio
import signal
from datetime import datetime
from pathlib import Path
from typing import assert_type

from fleetplane import (
    Agent,
    AgentsChanged,
    AgentsEvent,
    AgentSpec,
    AgentsSnapshot,
    AgentState,
    AgentStatus,
    AgentsUnchanged,
    CallerKind,
    Catalogue,
    ChannelConfig,
    ConfigUpdate,
    DrainAction,
    EffectiveConfig,
    EnrolledIdentity,
    Evaluation,
    FailMode,
    FleetClient,
    FleetError,
    InstanceSpec,
    LeaseFenced,
    NamespaceState,
    NotFound,
    PolicyAction,
    PolicyDenied,
    Position,
    QuotaFields,
    Reason,
    Registration,
    RetryPolicy,
    RolloutPhase,
    RolloutPlan,
    RolloutStep,
    Scope,
    Task,
    TaskContext,
    TaskFailed,
    TaskReason,
    TaskRejected,
    TaskState,
    TaskSubmission,
    TlsConfig,
)
from fleetplane.local import LocalPolicies
from fleetplane.v1.access_service_pb2 import RoleBinding
from fleetplane.v1.agent_pb2 import Agent as AgentRecord
from fleetplane.v1.identity_service_pb2 import JoinToken
from fleetplane.v1.lifecycle_service_pb2 import DeactivateResponse, Drain, EmergencyStop
from fleetplane.v1.policy_service_pb2 import PolicyDecision
from fleetplane.v1.registry_service_pb2 import FindBestAgentResponse, RegisterResponse
from fleetplane.v1.rollout_service_pb2 import Rollout
from fleetplane.v1.routing_service_pb2 import Route
from fleetplane.v1.task_service_pb2 import Task as TaskRecord


async def apply(config: EffectiveConfig) -> None:
    assert_type(config.temperature, float)
    assert_type(config.allowed_domains, tuple[str, ...] | None)
    await asyncio.sleep(0)


def apply_at_once(config: EffectiveConfig) -> None:
    assert_type(config.feature("search"), bool)


def note(state: AgentState, detail: str) -> None:
    assert_type(state.final, bool)
    assert_type(detail, str)


async def agents() -> None:
    async with Agent("a", "1.0.0", capabilities=["x"], tags={"k": "v"}, on_config=apply) as agent:
        assert_type(agent, Agent)
        assert_type(agent.config, EffectiveConfig)
        assert_type(agent.may_work, bool)
        with agent.task() as task:
            task.progress()
        decision = await agent.check("read", tool="db", environment="test", cost=0.4)
        assert_type(decision, PolicyDecision)
        assert_type(PolicyAction(decision.action).permits, bool)
        here = await agent.decide("read", tool="db", environment="test", cost=0.4)
        assert_type(here.snapshot_age_seconds, float)
        try:
            await agent.require("write", on_unavailable=FailMode.DENY)
        except PolicyDenied as refusal:
            assert_type(refusal.decision, PolicyDecision)

        @agent.track
        async def double(value: int, *, times: int = 2) -> int:
            return value * times

        assert_type(await double(1, times=3), int)

    Agent("b", "1.0.0", on_config=apply_at_once, on_state=note, degraded_after=30.0)


async def handlers(agent: Agent) -> None:
    @agent.task("summarize")
    async def summarize(task: TaskContext) -> str:
        assert_type(task.payload, bytes)
        assert_type(task.deadline, datetime | None)
        assert_type(task.cancelled.is_set(), bool)
        try:
            await task.progress(0.5, "half", checkpoint={"page": 3})
        except LeaseFenced as error:
            assert_type(error.reason, Reason)
        raise TaskRejected("never")

    @agent.task
    def anything(task: TaskContext) -> dict[str, int] | None:
        task.progress_blocking(0.1)
        return None

    @agent.task("bytes")
    async def raw(_: TaskContext) -> bytes:
        return b""

    assert_type(agent.task(), Task)
    async with agent:
        assert_type(await agent.run_until_stopped(), signal.Signals | AgentState)
        await agent.drain(5.0)


async def tasks(client: FleetClient) -> None:
    task = await client.submit_task("x", [1], agent_name="a", on_drain=DrainAction.FAIL)
    assert_type(task, TaskRecord)
    results = await client.submit_tasks([TaskSubmission(kind="x", capabilities=("y",))])
    assert_type(results, list[TaskRecord | FleetError])
    try:
        assert_type(await client.run_task("x", b"", agent_name="a", deadline=30.0), bytes)
    except TaskFailed as error:
        assert_type(error.task_reason, TaskReason)
        assert_type(error.task, TaskRecord)
    async for seen in client.follow_tasks([task.task_id]):
        assert_type(seen, TaskRecord)
        assert_type(TaskState(seen.state).ended, bool)
    async for seen in client.list_tasks(states=[TaskState.FAILED]):
        assert_type(seen.hop_count, int)


async def operations(client: FleetClient) -> None:
    assert_type(await client.activate("a", reason="tested"), AgentRecord)
    assert_type(await client.deactivate("a", "night", drain_deadline=60), DeactivateResponse)
    assert_type(await client.get_drain(instance_id="i", wait=30), Drain)
    assert_type(await client.emergency_stop("runaway", names="a"), EmergencyStop)
    assert_type(await client.set_route("a", {"2.0.0": 1_000, "1.0.0": 9_000}), Route)
    plan = RolloutPlan(steps=[1_000, RolloutStep(weight_bp=10_000)], observe=30.0)
    rollout = await client.start_rollout("a", "2.0.0", plan=plan)
    assert_type(rollout, Rollout)
    async for seen in client.watch_rollout(rollout.rollout_id):
        assert_type(RolloutPhase(seen.phase).ended, bool)


async def registry(client: FleetClient) -> None:
    spec = AgentSpec(name="a", version="1.0.0", capabilities=("x",))
    registered = await client.register(spec, instance=InstanceSpec(endpoint="http://here"))
    assert_type(registered, RegisterResponse)
    results = await client.batch_register([Registration(spec=spec)])
    assert_type(results, list[RegisterResponse | FleetError])
    async for agent in client.discover(capabilities="x", statuses=[AgentStatus.ACTIVE]):
        assert_type(agent, AgentRecord)
        assert_type(AgentStatus(agent.status), AgentStatus)
    async for agent in client.list_agents(owner="me", include_instances=True):
        assert_type(agent.instances[0].instance_id, str)
    best = await client.find_best_agent(capabilities=["x"], prefer_low_latency=True)
    assert_type(best, FindBestAgentResponse)
    assert_type(await client.update_agent("a", description="better", tags={}), AgentRecord)
    assert_type(await client.deregister("i"), bool)
    try:
        await client.get_agent("a", min_revision=3)
    except NotFound as error:
        assert_type(error.reason, Reason)
        assert_type(error.retry_after, float | None)


def describe(event: AgentsEvent) -> str:
    match event:
        case AgentsSnapshot(agents, position):
            assert_type(agents, tuple[AgentRecord, ...])
            return f"{len(agents)} at {position.revision}"
        case AgentsChanged(agents, removed, _):
            assert_type(removed, tuple[str, ...])
            return f"{len(agents)} changed"
        case AgentsUnchanged(position):
            assert_type(position, Position)
            return "nothing"


async def watches(client: FleetClient) -> None:
    async for event in client.watch_agents(name="a"):
        describe(event)
    async with client.watch_config([Scope(agent_id="a"), Scope(agent_name="b")]) as watch:
        async for update in watch:
            assert_type(update, ConfigUpdate)
            assert_type(update.config, EffectiveConfig)
    async with Catalogue(client) as catalogue:
        await catalogue.ready()
        assert_type(catalogue.discover(capabilities=["x"], tags={"k": "v"}), list[AgentRecord])
        assert_type(catalogue.get("a"), AgentRecord | None)
        assert_type(catalogue.age, float)


async def decisions_in_this_process(client: FleetClient) -> None:
    modes: dict[str, FailMode | str] = {"read.*": "allow", "**": FailMode.DENY}
    async with client.local_policies("a", "b", fail_mode=modes) as policies:
        assert_type(policies, LocalPolicies)
        decision = policies.decide("read", {"environment": "test"}, agent_id="a")
        assert_type(decision, PolicyDecision)
        assert_type(policies.age, float)


async def configs_and_policies(client: FleetClient) -> None:
    changed = await client.update_config({"temperature": 0.2}, scope=Scope(agent_id="a"))
    assert_type(changed.layer.revision, int)
    assert_type(await client.get_config(Scope(agent_id="a")), EffectiveConfig)
    async for layer in client.list_config_revisions():
        assert_type(layer.author, str)
    await client.create_policy("p", action=PolicyAction.DENY, conditions={"action": ["x", "y"]})
    await client.update_policy("p", enabled=False)
    assert_type(await client.delete_policy("p"), int)
    assert_type(await client.evaluate_policy("a", "read", context={"x": [1]}), PolicyDecision)
    answers = await client.batch_evaluate_policy([Evaluation(agent_id="a", action="read")])
    assert_type(answers, list[PolicyDecision | FleetError])


def connections() -> FleetClient:
    config = ChannelConfig(
        tls=TlsConfig(root_certificates=b"pem"), retry=RetryPolicy(max_attempts=3), authority="x"
    )
    return FleetClient("dns:///plane:50051", namespace="research", channel_config=config)


def credentials() -> list[FleetClient]:
    identity = EnrolledIdentity(
        "a",
        join_token=Path("join-token"),
        enroll_target="plane:50051",
        ca=b"pem",
        state_dir="state",
    )
    assert_type(identity.expires_at, datetime | None)
    assert_type(identity.namespace, str)
    secret = Path("join-token").read_text()
    Agent("a", "1.0.0", join_token=secret, enroll_target="plane:50051", ca="ca.pem")
    return [
        FleetClient("plane:50051", token=Path("token"), ca="ca.pem"),
        FleetClient("plane:50052", ca=b"pem", cert="cert.pem", key=Path("key.pem")),
        FleetClient("plane:50052", identity=identity),
        FleetClient.from_environment(agent_name="a", channel_config=ChannelConfig()),
    ]


async def administration(client: FleetClient) -> None:
    assert_type((await client.create_join_token("a-*", max_uses=3, ttl=60)).secret, str)
    async for join_token in client.list_join_tokens():
        assert_type(join_token, JoinToken)
    assert_type((await client.create_api_token("ci", "operator", namespace="*")).secret, str)
    assert_type(await client.unban_agent("a"), bool)
    assert_type(CallerKind((await client.who_am_i()).kind), CallerKind)
    assert_type(await client.create_role_binding("group:ops", "operator"), RoleBinding)
    assert_type((await client.check_access("operate")).allowed, bool)
    quotas: QuotaFields = {"agents": 10, "calls_per_second": 50}
    namespace = await client.create_namespace("sales", quotas=quotas, labels={"team": "x"})
    assert_type(NamespaceState(namespace.state), NamespaceState)
    await client.update_namespace("sales", quotas={"agents": 20})
    assert_type((await client.get_usage()).used.agents, int)
    try:
        await client.delete_namespace("sales")
    except FleetError as error:
        assert_type(error.hint, str)
