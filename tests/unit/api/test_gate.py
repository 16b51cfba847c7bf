"""Who may do what, asked between the wire and the handlers."""

import dataclasses
from typing import Any

import grpc
import pytest

from controlplane.api.context import Call, current_call
from controlplane.api.gate import Gate, NotAdmitted, enter_namespace, nothing_asked
from controlplane.api.identification import Identification
from controlplane.api.methods import METHODS, Method, RateClass, Scope
from controlplane.api.pipeline import raw_unary
from controlplane.domain.access.permissions import EVERYWHERE, Permission
from controlplane.domain.access.refusals import (
    AgentBanned,
    ForeignAgent,
    NamespaceNotFound,
    PermissionDenied,
    RateLimited,
)
from controlplane.domain.errors import InvalidArgument, StoreUnavailable
from fleetplane.v1 import registry_service_pb2 as pb
from tests.fakes.callers import Judge, KnownCallers, agent, showing, user
from tests.fakes.echo_service import edge
from tests.fakes.fleet import Fleet

pytestmark = pytest.mark.timeout(20)

REGISTRY = "/fleetplane.v1.RegistryService/"
GET_AGENT = METHODS[REGISTRY + "GetAgent"]
ANN, MINE = user("ann"), agent("mine")


class Place:
    """A gate with a judge of the test's own."""

    def __init__(self) -> None:
        self.judge = Judge()
        self.fleet = Fleet()
        self.entered: list[str] = []
        self.gate = Gate(
            self.judge, self.fleet.replica.read_model, self.fleet.admin, self.note_entered
        )

    def note_entered(self, call: Call) -> None:
        self.entered.append(call.namespace)

    def call(self, caller: Any = ANN, method: Method = GET_AGENT) -> Call:
        context: Any = None
        call = Call(method, context, self.gate)
        call.caller = caller
        return call


@pytest.fixture
def place():
    return Place()


def identifying(**by_token: Any) -> Identification:
    return Identification(KnownCallers(**by_token), reads_certificates=False)


@pytest.mark.parametrize(
    ("scope", "text", "asked"),
    [
        (Scope.NAMESPACE, "", "default"),
        (Scope.NAMESPACE, "team", "team"),
        (Scope.ANY_NAMESPACE, "", "default"),
        (Scope.ANY_NAMESPACE, "team", "team"),
        (Scope.ANY_NAMESPACE, "*", EVERYWHERE),
        (Scope.EVERYWHERE, "team", EVERYWHERE),
    ],
)
def test_the_permission_is_needed_where_the_scope_says(place, scope, text, asked):
    method = dataclasses.replace(GET_AGENT, scope=scope)
    call = place.call(method=method)
    place.gate.entry(method, streaming=False)(call, pb.GetAgentRequest(namespace=text))
    assert place.judge.asked == [("user:ann", Permission.READ, asked)]
    assert (call.namespace, call.admitted, call.confined) == (asked, True, False)
    assert place.entered == ([] if asked == EVERYWHERE else [asked])


def test_what_belongs_nowhere_only_asks_who_calls(place):
    method = dataclasses.replace(GET_AGENT, scope=Scope.NONE, permission=Permission.IDENTIFY)
    call = place.call(method=method)
    place.gate.entry(method, streaming=False)(call, object())
    assert place.judge.asked == [("user:ann", Permission.IDENTIFY, EVERYWHERE)]
    assert (call.namespace, call.admitted) == ("", True)


@pytest.mark.parametrize("text", ["*", "UPPER", "@system"])
def test_no_request_gets_into_a_namespace_that_has_no_proper_name(place, text):
    with pytest.raises(InvalidArgument):
        place.gate.entry(GET_AGENT, streaming=False)(
            place.call(), pb.GetAgentRequest(namespace=text)
        )
    assert place.judge.asked == []


def test_who_is_refused_has_not_entered(place):
    place.judge.refusals["team"] = NamespaceNotFound("team")
    call = place.call()
    with pytest.raises(NamespaceNotFound):
        place.gate.enter(call, "team")
    assert (place.entered, call.admitted, call.namespace) == ([], False, "")


def test_a_limit_of_the_namespace_refuses_at_the_gate(place):
    def full(_call: Call) -> None:
        raise RateLimited("calls", limit=1, per="namespace", retry_after_seconds=1)

    gate = Gate(place.judge, place.fleet.replica.read_model, place.fleet.admin, full)
    call = place.call()
    with pytest.raises(RateLimited):
        gate.enter(call, "team")
    assert not call.admitted


async def test_an_agent_is_confined_to_what_is_its_own(place):
    place.judge.confines = True
    await place.fleet.register("mine")
    await place.fleet.register("other")
    call = place.call(MINE)
    place.gate.enter(call, "default")
    assert (call.confined, call.admitted) == (True, False)
    with pytest.raises(ForeignAgent):
        await place.gate.confine(call, pb.GetAgentRequest(agent_id="other"))
    assert not call.admitted
    await place.gate.confine(call, pb.GetAgentRequest(agent_id="mine"))
    assert call.admitted


@pytest.mark.parametrize("name", ["Discover", "ListAgents", "WatchAgents", "FindBestAgent"])
def test_an_agent_sees_others_only_by_a_binding(place, name):
    place.judge.confines = True
    call = place.call(MINE, METHODS[REGISTRY + name])
    with pytest.raises(PermissionDenied, match="it shows other agents"):
        place.gate.enter(call, "default")
    assert not call.admitted
    place.judge.confines = False
    place.gate.enter(call, "default")
    assert call.admitted


def test_a_method_that_nobody_has_thought_of_is_refused_to_agents(place):
    place.judge.confines = True
    call = place.call(MINE, dataclasses.replace(GET_AGENT, name="/test.New/Method"))
    with pytest.raises(PermissionDenied):
        place.gate.enter(call, "default")


async def test_nobody_is_confined_to_no_agent_or_to_one_of_another_namespace(place):
    place.judge.confines = True
    for caller in (ANN, agent("mine", "elsewhere")):
        call = place.call(caller)
        place.gate.enter(call, "default")
        with pytest.raises(NotAdmitted):
            await place.gate.confine(call, pb.GetAgentRequest(agent_id="mine"))


async def test_a_refusal_arrives_with_its_status_and_before_the_handler_runs(place):
    place.judge.refusals = {
        "team": NamespaceNotFound("team"),
        "other": PermissionDenied("user:ann", Permission.READ, "other"),
    }
    reached = []

    async def answer(request, _context):
        reached.append(request.namespace)
        return pb.GetAgentResponse()

    async with edge(gate=place.gate, answer=answer) as it:
        for namespace, code in (
            ("team", grpc.StatusCode.NOT_FOUND),
            ("other", grpc.StatusCode.PERMISSION_DENIED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await it.stub.GetAgent(pb.GetAgentRequest(namespace=namespace))
            assert caught.value.code() is code
        await it.stub.GetAgent(pb.GetAgentRequest(namespace="mine"))
    assert reached == ["mine"]


async def test_a_stream_is_refused_before_its_first_message(place):
    place.judge.refusals["team"] = NamespaceNotFound("team")
    async with edge(gate=place.gate) as it:
        call = it.stub.WatchAgents(pb.WatchAgentsRequest(namespace="team"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_is_answered_to_everybody(place):
    place.judge.refusals = dict.fromkeys(Permission, AgentBanned("default", "mine"))
    async with edge(gate=place.gate, identification=identifying()) as it:
        check: Any = it.channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"")
    assert place.judge.asked == []


async def test_a_stream_of_requests_begins_with_a_look_at_the_credential(place):
    place.judge.refusals[Permission.IDENTIFY] = AgentBanned("default", "mine")
    async with edge(gate=place.gate, identification=identifying(m=MINE)) as it:
        call = it.stub.Heartbeat(metadata=showing("m"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_stream_that_nobody_let_in_ends_as_a_defect(place):
    async with edge(gate=place.gate) as it:
        call = it.stub.Heartbeat(iter(()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_a_stream_that_asked_nothing_ends_well(place):
    async def handle(_request):
        raise AssertionError("there is no message")

    class Silent:
        def add(self, server):
            server.add_registered_method_handlers(
                "test.Silent", {"Say": grpc.stream_stream_rpc_method_handler(self.say)}
            )

        async def say(self, _requests, _context):
            nothing_asked(current_call())

    methods = {
        **METHODS,
        "/test.Silent/Say": dataclasses.replace(
            METHODS[REGISTRY + "Heartbeat"], name="/test.Silent/Say"
        ),
    }
    async with edge(gate=place.gate, methods=methods, add_more=Silent().add, handle=handle) as it:
        untyped: Any = it.channel
        call = untyped.stream_stream("/test.Silent/Say")(iter(()))
        assert [one async for one in call] == []


class Raw:
    """A handler of bytes that forgets the gate unless it is told to think of it."""

    def __init__(self, *, forgets: bool) -> None:
        self.forgets = forgets

    @raw_unary
    async def tell(self, raw: bytes, _call: Call) -> bytes:
        if not self.forgets:
            enter_namespace(raw.decode())
        return b"secret"

    def add(self, server: Any) -> None:
        handler: Any = grpc.unary_unary_rpc_method_handler(self.tell)
        server.add_registered_method_handlers("test.Raw", {"Tell": handler})


RAW = {
    "/test.Raw/Tell": Method(
        name="/test.Raw/Tell",
        permission=Permission.READ,
        rate_class=RateClass.READ,
        max_deadline_seconds=None,
    )
}


@pytest.mark.parametrize(
    ("forgets", "text", "code"),
    [
        (False, b"team", grpc.StatusCode.OK),
        (False, b"hidden", grpc.StatusCode.NOT_FOUND),
        (True, b"team", grpc.StatusCode.INTERNAL),
    ],
)
async def test_bytes_are_answered_only_to_those_who_passed(place, forgets, text, code):
    place.judge.refusals["hidden"] = NamespaceNotFound("hidden")
    raw = Raw(forgets=forgets)
    async with edge(gate=place.gate, methods={**METHODS, **RAW}, add_more=raw.add) as it:
        untyped: Any = it.channel
        call = untyped.unary_unary("/test.Raw/Tell")(text)
        assert await call.code() is code


async def test_beats_whose_owner_only_an_absent_store_knows_are_taken_out(place):
    class Away:
        async def read(self, *_: Any) -> Any:
            raise StoreUnavailable

    away: Any = Away()
    place.judge.confines = True
    gate = Gate(place.judge, place.fleet.replica.read_model, away)
    await place.fleet.register("mine", "known")
    call = place.call(MINE, METHODS[REGISTRY + "Heartbeat"])
    gate.enter(call, "default")
    request = pb.HeartbeatRequest(beats=[pb.Beat(instance_id=i) for i in ("known", "unheard")])
    await gate.confine_beats(call, place.fleet.replica.view, request)
    assert [beat.instance_id for beat in request.beats] == ["known"]
    assert call.admitted
