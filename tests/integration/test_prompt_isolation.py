"""Prompts kept apart: between agents, between tenants, and between the two."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no stubs
from grpc_status import rpc_status as typed_rpc_status

from controlplane.api.identification import Identification
from controlplane.settings import Settings
from controlplane.storage.memory.ledger import MemoryLedger
from fleetplane.v1 import agent_pb2, prompt_service_pb2_grpc, registry_service_pb2
from fleetplane.v1 import prompt_service_pb2 as pb
from tests.fakes.callers import KnownCallers, agent, bind, make_namespace, showing, user
from tests.fakes.eventually import eventually
from tests.fakes.memory_replica import MemoryReplica, memory_replica

pytestmark = pytest.mark.timeout(60)

rpc_status: Any = typed_rpc_status  # the published stubs know only synchronous errors

MINE, OTHER, TEAMS = agent("mine"), agent("other"), agent("mine", "team")
ROOT, ANN = user("root", is_admin=True), user("ann")
AS_MINE, AS_OTHER, AS_TEAMS = showing("mine"), showing("other"), showing("teams")
AS_ROOT, AS_ANN = showing("root"), showing("ann")


async def refused(call: Awaitable[Any]) -> str:
    """Return the reason that a call is refused with; empty if it is answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        info = error_details_pb2.ErrorInfo()
        for packed in rpc_status.from_call(error).details:
            if packed.Unpack(info):
                return str(info.reason)
        return error.code().name
    return ""


@pytest.fixture
async def replica() -> AsyncIterator[MemoryReplica]:
    """Yield a replica with two agents, `mine-1` and `other-1`."""
    known = KnownCallers(mine=MINE, other=OTHER, teams=TEAMS, root=ROOT, ann=ANN)
    who = Identification(known, reads_certificates=False)
    async with memory_replica(Settings(secure=True), who) as made:
        await make_namespace(MemoryLedger(made.store), "team")
        for name, shows in (("mine", AS_MINE), ("other", AS_OTHER)):
            spec = agent_pb2.AgentSpec(name=name, version="1.0.0")
            request = registry_service_pb2.RegisterRequest(agent_id=f"{name}-1", spec=spec)
            await made.registry.Register(request, metadata=shows)
        yield made


@pytest.fixture
async def prompts(replica: MemoryReplica) -> Any:
    """Return the stub; `production` of `greeting` is at 1, `canary`, given to `other`, at 2."""
    stub: Any = prompt_service_pb2_grpc.PromptServiceStub(replica.channel)
    for namespace, texts in (("default", ("public", "secret")), ("team", ("theirs",))):
        for text in texts:
            request = pb.CreatePromptVersionRequest(
                namespace=namespace, prompt="greeting", text=text, reason="r"
            )
            await stub.CreatePromptVersion(request, metadata=AS_ROOT)
        move = pb.MoveLabelRequest(namespace=namespace, prompt="greeting", version=1, reason="r")
        await stub.MoveLabel(move, metadata=AS_ROOT)
    canary = pb.MoveLabelRequest(prompt="greeting", label="canary", version=2, reason="r")
    await stub.MoveLabel(canary, metadata=AS_ROOT)
    given = pb.SetAgentLabelRequest(
        prompt="greeting", agent_name="other", label="canary", reason="r"
    )
    await stub.SetAgentLabel(given, metadata=AS_ROOT)
    return stub


def asking(agent_id: str = "", **fields: Any) -> pb.ResolvePromptRequest:
    return pb.ResolvePromptRequest(prompt="greeting", agent_id=agent_id, **fields)


async def test_an_agent_resolves_for_itself_only(prompts: Any) -> None:
    own = await prompts.ResolvePrompt(asking("mine-1", session_id="s-1"), metadata=AS_MINE)
    assert own.version.text == "public"
    for foreign in (asking("other-1"), asking()):
        assert await refused(prompts.ResolvePrompt(foreign, metadata=AS_MINE)) == "FOREIGN_AGENT"


async def test_what_an_agent_keeps_in_a_session_decides_for_nobody_else(prompts: Any) -> None:
    await prompts.ResolvePrompt(asking("mine-1", session_id="shared"), metadata=AS_MINE)
    theirs = await prompts.ResolvePrompt(asking("other-1", session_id="shared"), metadata=AS_ROOT)
    assert theirs.version.text == "secret"


async def test_an_agent_watches_what_it_gets_and_no_other_label(prompts: Any) -> None:
    def watching(**fields: Any) -> Any:
        watched = [pb.WatchedPrompt(prompt="greeting")]
        return prompts.WatchPrompts(
            pb.WatchPromptsRequest(prompts=watched, **fields), metadata=AS_MINE
        )

    for fields in (
        {},
        {"agent_name": "other"},
        {"agent_name": "mine", "labels": ["canary"]},
    ):
        assert await refused(watching(**fields).read()) == "FOREIGN_AGENT"
    call = watching(agent_name="mine")
    async with asyncio.timeout(10):
        content = await call.read()
        update = await call.read()
    call.cancel()
    assert content.version.text == "public"
    assert [one.label for one in update.update.labels] == ["production"]
    assert update.update.agent_label == ""


async def test_an_agent_lists_and_changes_nothing(prompts: Any) -> None:
    for method, request in (
        ("GetPromptVersion", pb.GetPromptVersionRequest(prompt="greeting", version=2)),
        ("ListPrompts", pb.ListPromptsRequest()),
        ("RenderPrompt", pb.RenderPromptRequest(prompt="greeting", version=2)),
        ("ListEvaluations", pb.ListEvaluationsRequest(prompt="greeting")),
        ("MoveLabel", pb.MoveLabelRequest(prompt="greeting", version=2, reason="r")),
        ("RecordEvaluation", pb.RecordEvaluationRequest(prompt="greeting", version=2)),
    ):
        call = getattr(prompts, method)(request, metadata=AS_MINE)
        assert await refused(call) in {"PERMISSION_DENIED", "FOREIGN_AGENT"}, method


async def test_an_agent_says_what_it_uses_itself_only(prompts: Any) -> None:
    own = await prompts.ResolvePrompt(asking("mine-1"), metadata=AS_MINE)

    def using(agent_id: str) -> pb.MarkPromptUsedRequest:
        digest = own.version.content_sha256
        return pb.MarkPromptUsedRequest(
            prompt="greeting", version=1, content_sha256=digest, agent_id=agent_id
        )

    answer = await prompts.MarkPromptUsed(using("mine-1"), metadata=AS_MINE)
    assert not answer.recorded  # there is no experiment
    for foreign in ("other-1", ""):
        call = prompts.MarkPromptUsed(using(foreign), metadata=AS_MINE)
        assert await refused(call) == "FOREIGN_AGENT"


async def test_prompts_of_a_tenant_are_nobody_elses(replica: MemoryReplica, prompts: Any) -> None:
    assert await refused(
        prompts.ResolvePrompt(asking("mine-1", namespace="team"), metadata=AS_MINE)
    ) in {"NAMESPACE_NOT_FOUND", "FOREIGN_AGENT"}
    assert await refused(prompts.ResolvePrompt(asking("mine-1"), metadata=AS_TEAMS)) in {
        "NAMESPACE_NOT_FOUND",
        "FOREIGN_AGENT",
    }
    await bind(MemoryLedger(replica.store), ANN, "viewer", "team")

    async def is_shown() -> bool:
        request = pb.GetPromptVersionRequest(namespace="team", prompt="greeting")
        return not await refused(prompts.GetPromptVersion(request, metadata=AS_ANN))

    await eventually("ann sees the prompts of the team", is_shown)
    here = pb.GetPromptVersionRequest(prompt="greeting")
    call = prompts.GetPromptVersion(here, metadata=AS_ANN)
    assert await refused(call) == "NAMESPACE_NOT_FOUND"
    there = pb.GetPromptVersionRequest(namespace="team", prompt="greeting", version=2)
    call = prompts.GetPromptVersion(there, metadata=AS_ANN)
    assert await refused(call) == "PROMPT_VERSION_NOT_FOUND"
