"""Approvals while daemons and stores are killed: a grant is used once, and never forgotten."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no stubs
from grpc_status import rpc_status

from fleetplane.v1 import agent_pb2, approval_service_pb2, approval_service_pb2_grpc
from fleetplane.v1 import policy_service_pb2 as policy_pb
from fleetplane.v1 import policy_service_pb2_grpc as policy_grpc
from fleetplane.v1 import registry_service_pb2 as registry_pb
from fleetplane.v1 import registry_service_pb2_grpc as registry_grpc
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.valkey import ValkeyServer, valkey_server

pytestmark = [pytest.mark.fault, pytest.mark.xdist_group("approvals"), pytest.mark.timeout(120)]

pb = approval_service_pb2
DEADLINE = 20.0  # seconds
CONSUMERS = 200


class Desk:
    """An agent that pays, at one daemon."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.approvals: Any = approval_service_pb2_grpc.ApprovalServiceStub(channel)
        self.policies: Any = policy_grpc.PolicyServiceStub(channel)
        self.registry: Any = registry_grpc.RegistryServiceStub(channel)

    async def prepare(self, **approval: Any) -> None:
        spec = agent_pb2.AgentSpec(name="payer", version="1.0.0")
        await self.registry.Register(
            registry_pb.RegisterRequest(agent_id="payer", spec=spec), timeout=DEADLINE
        )
        policy = ParseDict(
            {
                "policyId": "ask",
                "action": "POLICY_ACTION_REQUIRE_APPROVAL",
                "targets": {"actions": ["pay"]},
                "enabled": True,
                "approval": approval,
            },
            policy_pb.Policy(),
        )
        await self.policies.CreatePolicy(
            policy_pb.CreatePolicyRequest(policy=policy), timeout=DEADLINE
        )

    async def ask(self, session: str = "s") -> Any:
        question = policy_pb.EvaluatePolicyRequest(
            agent_id="payer", action="pay", session_id=session
        )
        answer = await self.policies.EvaluatePolicy(question, timeout=DEADLINE)
        return answer.decision

    async def grant(self, approval_id: str) -> Any:
        vote = pb.DecideApprovalRequest(
            approval_id=approval_id, decision=pb.APPROVAL_DECISION_GRANT, vote_id="v"
        )
        return (await self.approvals.DecideApproval(vote, timeout=DEADLINE)).approval

    async def granted(self, session: str = "s") -> str:
        approval_id = (await self.ask(session)).approval_id
        assert (await self.grant(approval_id)).state == pb.APPROVAL_STATE_GRANTED
        return str(approval_id)

    async def use(self, approval_id: str, consume_id: str, *, session: str = "s") -> Any:
        use = pb.ConsumeApprovalRequest(
            approval_id=approval_id,
            agent_id="payer",
            action="pay",
            session_id=session,
            consume_id=consume_id,
        )
        return await self.approvals.ConsumeApproval(use, timeout=DEADLINE)

    async def refusal(self, approval_id: str, consume_id: str) -> str:
        with pytest.raises(grpc.RpcError) as raised:
            await self.use(approval_id, consume_id)
        return reason_of(raised.value)

    async def state(self, approval_id: str) -> int:
        request = pb.GetApprovalRequest(approval_id=approval_id)
        answer = await self.approvals.GetApproval(request, timeout=DEADLINE)
        return int(answer.approval.state)


def reason_of(error: Any) -> str:
    status, info = rpc_status.from_call(error), error_details_pb2.ErrorInfo()
    if status is None or not any(detail.Unpack(info) for detail in status.details):
        return str(error.code().name)
    return str(info.reason)


@asynccontextmanager
async def desk_at(daemon: Daemon) -> AsyncIterator[Desk]:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield Desk(channel)


@asynccontextmanager
async def store() -> AsyncIterator[ValkeyServer]:
    async with valkey_server("--appendfsync", "always") as server:
        yield server


async def test_of_two_hundred_uses_at_two_daemons_one_passes() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(store())
        daemons = [stack.enter_context(running_daemon(store=server.url)) for _ in range(2)]
        desks = [await stack.enter_async_context(desk_at(one)) for one in daemons]
        await desks[0].prepare()
        for round_ in range(3):
            approval_id = await desks[0].granted(f"s{round_}")
            outcomes = await asyncio.gather(
                *(
                    desks[n % 2].use(approval_id, f"c{n}", session=f"s{round_}")
                    for n in range(CONSUMERS)
                ),
                return_exceptions=True,
            )
            refused = [reason_of(one) for one in outcomes if isinstance(one, grpc.RpcError)]
            assert len(refused) == CONSUMERS - 1
            assert set(refused) == {"ALREADY_CONSUMED"}


async def test_a_use_whose_answer_was_lost_is_answered_again_and_nobody_else_is() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(store())
        healthy = stack.enter_context(running_daemon(store=server.url))
        desk = await stack.enter_async_context(desk_at(healthy))
        await desk.prepare()
        approval_id = await desk.granted()
        dying = stack.enter_context(
            running_daemon(store=server.url, failpoint="committed:ConsumeApproval")
        )
        async with desk_at(dying) as doomed:
            assert await doomed.refusal(approval_id, "mine") == "UNAVAILABLE"
        assert await dying.await_end() == -9
        assert await desk.refusal(approval_id, "another") == "ALREADY_CONSUMED"
        answer = await desk.use(approval_id, "mine")
        assert (answer.replayed, answer.approval.state) == (True, pb.APPROVAL_STATE_CONSUMED)


async def test_an_approval_outlives_its_daemon_and_is_found_by_asking_again() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(store())
        daemon = stack.enter_context(running_daemon(store=server.url))
        desk = await stack.enter_async_context(desk_at(daemon))
        await desk.prepare()
        approval_id = (await desk.ask()).approval_id
        await daemon.arestart()
        assert (await desk.ask()).approval_id == approval_id
        await desk.grant(approval_id)
        await daemon.arestart()
        decision = await desk.ask()
        assert decision.approval_id == approval_id
        assert decision.approval_state == pb.APPROVAL_STATE_GRANTED
        assert not (await desk.use(approval_id, "c")).replayed
        await daemon.arestart()
        assert await desk.refusal(approval_id, "d") == "ALREADY_CONSUMED"


async def test_a_store_that_is_killed_forgets_neither_a_grant_nor_its_use() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(store())
        daemon = stack.enter_context(running_daemon(store=server.url))
        desk = await stack.enter_async_context(desk_at(daemon))
        await desk.prepare()
        for round_ in range(3):
            session = f"s{round_}"
            approval_id = await desk.granted(session)
            await server.restart()

            async def granted(one: str = approval_id) -> bool:
                try:
                    return await desk.state(one) == pb.APPROVAL_STATE_GRANTED
                except grpc.RpcError:
                    return False

            await eventually("the grant is there", granted)
            await used(desk, approval_id, session)
            await server.restart()

            async def refused(one: str = approval_id, where: str = session) -> bool:
                with pytest.raises(grpc.RpcError) as raised:
                    await desk.use(one, "another", session=where)
                return reason_of(raised.value) == "ALREADY_CONSUMED"

            await eventually("the use is there", refused)


async def used(desk: Desk, approval_id: str, session: str) -> None:
    """Use a grant, as often as a store that comes back makes necessary."""

    async def once() -> bool:
        try:
            await desk.use(approval_id, "mine", session=session)
        except grpc.RpcError as error:
            if reason_of(error) not in {"STORE_UNAVAILABLE", "UNAVAILABLE"}:
                raise
            return False
        return True

    await eventually("the grant is used", once)


async def test_what_nobody_decides_expires_with_nobody_looking() -> None:
    with running_daemon() as daemon:
        async with desk_at(daemon) as desk:
            await desk.prepare(ttl="1s", useWindow="1s")
            pending = (await desk.ask("pending")).approval_id
            granted = await desk.granted()

            async def expired() -> bool:
                watch = desk.approvals.ListApprovals(
                    pb.ListApprovalsRequest(
                        filter=pb.ApprovalFilter(states=[pb.APPROVAL_STATE_EXPIRED])
                    ),
                    timeout=DEADLINE,
                )
                found = {
                    one.approval_id
                    for one in (await watch).approvals
                    if one.entries[-1].kind == pb.ApprovalEntry.KIND_EXPIRED
                }
                return found == {pending, granted}

            await eventually("both are written down as expired", expired)
            assert await desk.refusal(granted, "c") == "APPROVAL_EXPIRED"
            with pytest.raises(grpc.RpcError) as refused:
                await desk.grant(pending)
            assert reason_of(refused.value) == "APPROVAL_EXPIRED"
