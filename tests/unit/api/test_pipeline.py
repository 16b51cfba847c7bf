import asyncio
import dataclasses
import gc
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # no py.typed
from grpc_status import rpc_status as typed_rpc_status

from controlplane.api.concerns import standard_concerns
from controlplane.api.context import current_caller, current_request_id
from controlplane.api.drain import Drain
from controlplane.api.methods import METHODS, Method, RateClass
from controlplane.api.pipeline import Concern, Pipeline, RegistrationError, raw_unary
from controlplane.domain.access.permissions import Permission
from controlplane.domain.errors import AgentNotFound, InvalidArgument, StoreUnavailable
from fleetplane.v1 import registry_service_pb2 as pb
from tests.fakes.echo_service import Edge, delta, echo, edge

rpc_status: Any = typed_rpc_status  # the published stubs know only synchronous errors
GET_AGENT = "/fleetplane.v1.RegistryService/GetAgent"
SHAPES = {
    name: Method(
        name=name,
        permission=Permission.READ,
        rate_class=RateClass.READ,
        max_deadline_seconds=None,
    )
    for name in ("/test.Shapes/Collect", "/test.Shapes/Repeat", "/test.Shapes/Mirror")
}


def untyped(it: Edge) -> Any:
    """The channel, for methods without generated stubs."""
    return it.channel


class Shapes:
    """The shapes and styles that fleetplane.v1 does not use."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.closed_in = ""

    async def collect(self, requests, _context):
        return b"".join([request async for request in requests])

    async def repeat(self, request, _context):
        try:
            for _ in range(3):
                yield request
        finally:
            self.closed_in = current_request_id()
            self.closed.set()

    async def mirror(self, requests, _context):
        async for request in requests:
            yield request

    def add(self, server):
        server.add_registered_method_handlers(
            "test.Shapes",
            {
                "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
                "Repeat": grpc.unary_stream_rpc_method_handler(self.repeat),
                "Mirror": grpc.stream_stream_rpc_method_handler(self.mirror),
            },
        )


async def failing(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def raising(error: BaseException) -> Any:
    async def answer(_request, _context):
        raise error

    return answer


def detail(error: grpc.aio.AioRpcError, kind: type[Any]) -> Any:
    status = rpc_status.from_call(error)
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    raise AssertionError(f"{kind.__name__} is missing in {status}")


async def test_all_four_shapes_pass_in_both_styles():
    shapes = Shapes()
    async with edge(methods={**METHODS, **SHAPES}, add_more=shapes.add) as it:
        response = await it.stub.GetAgent(pb.GetAgentRequest(agent_id="a"))
        assert response.agent.agent_id == "a"
        watched = [r async for r in it.stub.WatchAgents(pb.WatchAgentsRequest())]
        assert watched == [delta("first"), delta("second")]
        beats = it.stub.Heartbeat(iter([pb.HeartbeatRequest(batch=7)]))
        assert [r.batch async for r in beats] == [7]
        collect = untyped(it).stream_unary("/test.Shapes/Collect")
        assert await collect(iter([b"a", b"b"])) == b"ab"
        repeat = untyped(it).unary_stream("/test.Shapes/Repeat")(b"x")
        assert [r async for r in repeat] == [b"x", b"x", b"x"]
        mirror = untyped(it).stream_stream("/test.Shapes/Mirror")(iter([b"1", b"2"]))
        assert [r async for r in mirror] == [b"1", b"2"]


async def test_a_generator_is_closed_in_its_own_context_when_the_client_leaves():
    shapes = Shapes()
    async with edge(methods={**METHODS, **SHAPES}, add_more=shapes.add) as it:
        call = untyped(it).unary_stream("/test.Shapes/Repeat")(
            b"x" * 3_000_000, metadata=(("x-request-id", "mine"),)
        )
        await call.read()
        call.cancel()
        async with asyncio.timeout(5):
            await shapes.closed.wait()
    assert shapes.closed_in == "mine"


async def test_a_wrong_field_arrives_with_its_violation():
    async with edge(answer=raising(InvalidArgument.of("agent_id", "is required"))) as it:
        error = await failing(it.stub.GetAgent(pb.GetAgentRequest()))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, error_details_pb2.ErrorInfo).reason == "INVALID_FIELD"
    violation = detail(error, error_details_pb2.BadRequest).field_violations[0]
    assert (violation.field, violation.description) == ("agent_id", "is required")


async def test_a_retryable_refusal_says_when():
    async with edge(answer=raising(StoreUnavailable())) as it:
        error = await failing(it.stub.GetAgent(pb.GetAgentRequest()))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 1000


async def test_a_defect_leaks_nothing_but_the_request_id():
    async with edge(answer=raising(ValueError("password=hunter2"))) as it:
        error = await failing(
            it.stub.GetAgent(pb.GetAgentRequest(), metadata=(("x-request-id", "req-1"),))
        )
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in f"{error.details()} {error.trailing_metadata()}"
    info = detail(error, error_details_pb2.ErrorInfo)
    assert (info.reason, dict(info.metadata)) == ("INTERNAL", {"request_id": "req-1"})
    assert ("x-request-id", "req-1") in tuple(error.trailing_metadata() or ())


async def test_an_error_in_a_task_group_is_unwrapped():
    async def answer(request, _context):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(raising(AgentNotFound(request.agent_id))(None, None))

    async with edge(answer=answer) as it:
        error = await failing(it.stub.GetAgent(pb.GetAgentRequest(agent_id="a-1")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert dict(detail(error, error_details_pb2.ErrorInfo).metadata) == {"agent_id": "a-1"}


async def test_a_malformed_request_is_refused_as_a_wrong_argument():
    async with edge() as it:
        error = await failing(untyped(it).unary_unary(GET_AGENT)(b"\xff\xff\xff"))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        beats = untyped(it).stream_stream("/fleetplane.v1.RegistryService/Heartbeat")
        error = await failing(anext(aiter(beats(iter([b"\xff\xff\xff"])))))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_reply_of_the_wrong_type_leaks_nothing():
    async def answer(_request, _context):
        return {"password": "hunter2"}

    async with edge(answer=answer) as it:
        error = await failing(it.stub.GetAgent(pb.GetAgentRequest()))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(error)


async def test_a_method_that_is_not_there_is_unimplemented():
    async with edge() as it:
        error = await failing(it.stub.Register(pb.RegisterRequest()))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_handler_is_stopped_at_the_bound_of_its_row():
    bounded = {
        **METHODS,
        GET_AGENT: dataclasses.replace(METHODS[GET_AGENT], max_deadline_seconds=0.05),
    }
    stopped = asyncio.Event()

    async def answer(_request, _context):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with edge(answer=answer, methods=bounded) as it:
        error = await failing(it.stub.GetAgent(pb.GetAgentRequest()))
        assert stopped.is_set()
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert detail(error, error_details_pb2.ErrorInfo).reason == "DEADLINE_EXCEEDED"
        it.service.answer = echo
        again = await it.stub.GetAgent(pb.GetAgentRequest(agent_id="still here"))
        assert again.agent.agent_id == "still here"


async def test_a_handler_is_cancelled_at_the_deadline_of_its_caller():
    cancelled = asyncio.Event()

    async def answer(_request, _context):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with edge(answer=answer) as it:
        error = await failing(it.stub.GetAgent(pb.GetAgentRequest(), timeout=0.1))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(2):
            await cancelled.wait()


async def test_the_caller_and_its_address_are_known_to_the_handler():
    seen = []

    async def answer(_request, _context):
        seen.append(current_caller())
        return pb.GetAgentResponse()

    audited = {**METHODS, GET_AGENT: dataclasses.replace(METHODS[GET_AGENT], audited=True)}
    async with edge(answer=answer, methods=audited) as it:
        await it.stub.GetAgent(pb.GetAgentRequest())
    assert seen[0].is_admin
    assert seen[0].address.startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize("offered", ["", "has space", "x" * 129])
async def test_an_unacceptable_request_id_is_replaced(offered):
    async with edge() as it:
        call = it.stub.GetAgent(pb.GetAgentRequest(), metadata=(("x-request-id", offered),))
        await call
        returned = dict(await call.trailing_metadata())["x-request-id"]
    assert returned
    assert returned != offered


async def test_request_ids_made_here_are_unique():
    async with edge() as it:
        calls = [it.stub.GetAgent(pb.GetAgentRequest()) for _ in range(20)]
        ids = {dict(await call.trailing_metadata())["x-request-id"] for call in calls}
    assert len(ids) == 20


async def test_a_raw_handler_gets_bytes_and_returns_bytes():
    ready = pb.GetAgentResponse()
    ready.agent.agent_id = "ready"

    class Raw:
        @raw_unary
        async def get(self, raw, call):
            assert pb.GetAgentRequest.FromString(raw).agent_id == "a"
            assert call.request_id
            return ready.SerializeToString()

    def add(server):
        server.add_registered_method_handlers(
            "fleetplane.v1.RegistryService",
            {"GetAgent": grpc.unary_unary_rpc_method_handler(Raw().get)},
        )

    async with edge(add_more=add) as it:
        response = await it.stub.GetAgent(pb.GetAgentRequest(agent_id="a"))
    assert response == ready


async def test_a_client_that_cancels_leaves_no_task():
    entered = asyncio.Event()

    async def answer(_request, _context):
        entered.set()
        await asyncio.Event().wait()

    async with edge(answer=answer) as it:
        call = it.stub.GetAgent(pb.GetAgentRequest())
        async with asyncio.timeout(2):
            await entered.wait()
        assert it.drain.in_flight == 1
        call.cancel()
        async with asyncio.timeout(2):
            await it.drain.idle.wait()


def wrap(behaviour: Any, name: str = GET_AGENT, concerns: Sequence[Concern] = ()) -> Any:
    handler: Any = grpc.unary_unary_rpc_method_handler(behaviour)
    return Pipeline(concerns).wrap(name, handler)


def test_a_handler_without_a_row_is_refused_at_registration():
    with pytest.raises(RegistrationError, match=r"/test\.Nobody/Knows has no row"):
        wrap(echo, "/test.Nobody/Knows")


def test_a_synchronous_handler_is_refused_at_registration():
    with pytest.raises(RegistrationError, match="coroutine"):
        wrap(lambda _request, _context: b"")


async def test_a_service_that_cannot_be_wrapped_is_refused():
    server = grpc.aio.server()
    registrar = Pipeline(()).registrar(server)
    registrar.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", {}),))
    with pytest.raises(RegistrationError, match=r"a\.B"):
        registrar.seal()


async def test_a_concern_that_refuses_unwinds_only_those_that_were_entered():
    log = []

    def concern(name: str, *, refuses: bool = False) -> Concern:
        def before(_call):
            log.append(f"+{name}")
            if refuses:
                raise AgentNotFound("x")

        return Concern(
            name=name, before=before, after=lambda _call, _outcome: log.append(f"-{name}")
        )

    wrapped = wrap(
        echo, concerns=(concern("a"), concern("b"), concern("c", refuses=True), concern("d"))
    )
    with pytest.raises(AgentNotFound):
        await wrapped.unary_unary(b"", object())
    assert log == ["+a", "+b", "+c", "-b", "-a"]


async def test_the_order_of_the_concerns_is_the_documented_one():
    assert [concern.name for concern in standard_concerns(Drain())] == [
        "in_flight",
        "request_id",
        "access_log",
        "status",
        "authentication",
        "deadline",
        "audit",
    ]


def aborts() -> int:
    """Count the errors that aborted calls, of those that are still in memory."""
    return sum(isinstance(one, grpc.aio.AbortError) for one in gc.get_objects())


async def test_a_refused_call_leaves_nothing_to_the_garbage_collector():
    async def refuse(_request, _context):
        raise AgentNotFound("a")

    gc.collect()
    before = aborts()
    gc.disable()
    try:
        async with edge(answer=refuse) as it:
            for _ in range(10):
                with pytest.raises(grpc.aio.AioRpcError):
                    await it.stub.GetAgent(pb.GetAgentRequest())
            kept = aborts() - before
    finally:
        gc.enable()
    assert kept <= 2, "the first has set a timer, the last one may be on its way out"
