"""Streams and waits end when the right they live on has gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from controlplane.api import stream_guard
from controlplane.api.context import Call, enter_call
from controlplane.api.gate import Gate
from controlplane.api.identification import Identification
from controlplane.api.methods import METHODS
from controlplane.api.stream_guard import StreamGuard
from controlplane.api.streams import StreamLimits
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.refusals import (
    CredentialExpired,
    CredentialRevoked,
    PermissionDenied,
)
from controlplane.domain.errors import DomainError, NotReady
from controlplane.services.hub import Hub, access_topic
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import watch_pb2
from tests.fakes.callers import Judge, KnownCallers, agent, showing, user
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.echo_service import Edge, delta, edge
from tests.fakes.eventually import eventually
from tests.fakes.fleet import Fleet

pytestmark = pytest.mark.timeout(20)

WATCH = METHODS["/fleetplane.v1.RegistryService/WatchAgents"]
ANN, BEN = user("ann"), user("ben")
REVOKED = CredentialRevoked("the token", "at-1")
EXPIRED = CredentialExpired("the certificate")


class Place:
    """A guard with a judge of the test's own."""

    def __init__(self) -> None:
        self.judge, self.hub, self.clock = Judge(), Hub(), FakeClock()
        self.guard = StreamGuard(self.judge, self.hub, self.clock)

    def call(self, caller: Any = ANN, namespace: str = "default") -> Call:
        context: Any = None
        call = Call(WATCH, context)
        call.caller, call.namespace = caller, namespace
        return call


@pytest.fixture
def place():
    return Place()


class Ends:
    """Notes how a stream is ended."""

    def __init__(self) -> None:
        self.by: list[DomainError] = []
        self.came = asyncio.Event()

    def __call__(self, refusal: DomainError) -> None:
        self.by.append(refusal)
        self.came.set()


async def test_a_stream_lives_as_long_as_its_right(place):
    end = Ends()
    with place.guard.watching(place.call(), end):
        await place.guard.look()
        assert end.by == []
        place.judge.refusals["default"] = REVOKED
        await place.guard.look()
        await place.guard.look()
        assert (end.by, place.guard.ended) == ([REVOKED], 1)
    assert place.guard.watched == 0


async def test_those_that_share_a_right_are_judged_once(place):
    ends = [Ends() for _ in range(3)]
    calls = [place.call(), place.call(), place.call(BEN)]
    with (
        place.guard.watching(calls[0], ends[0]),
        place.guard.watching(calls[1], ends[1]),
        place.guard.watching(calls[2], ends[2]),
    ):
        await place.guard.look()
        assert sorted(name for name, *_ in place.judge.asked) == ["user:ann", "user:ben"]
        place.judge.refusals["default"] = REVOKED
        await place.guard.look()
        assert [end.by for end in ends] == [[REVOKED]] * 3
        assert place.guard.watched == 0


async def test_before_the_first_message_only_the_credential_is_judged(place):
    with place.guard.watching(place.call(namespace=""), Ends()):
        await place.guard.look()
    assert place.judge.asked == [("user:ann", Permission.IDENTIFY, "*")]


async def test_what_says_nothing_about_rights_ends_nothing(place):
    end = Ends()
    place.judge.refusals["default"] = NotReady()
    with place.guard.watching(place.call(), end):
        await place.guard.look()
    assert end.by == []


async def test_the_end_of_a_credential_is_left_to_go_away_but_ends_waits(place):
    stream, wait = Ends(), Ends()
    place.judge.refusals["default"] = EXPIRED
    with (
        place.guard.watching(place.call(), stream),
        place.guard.watching(place.call(), wait, waits=True),
    ):
        await place.guard.look()
    assert (stream.by, wait.by) == ([], [EXPIRED])


async def test_an_agent_that_keeps_only_its_certificate_loses_what_the_binding_showed(place):
    opened_with_binding, opened_as_itself = Ends(), Ends()
    confined = place.call(agent("mine"))
    confined.confined = True
    with (
        place.guard.watching(place.call(agent("mine")), opened_with_binding),
        place.guard.watching(confined, opened_as_itself),
    ):
        place.judge.confines = True
        await place.guard.look()
    assert [type(refusal) for refusal in opened_with_binding.by] == [PermissionDenied]
    assert opened_as_itself.by == []


async def test_how_long_a_credential_is_good_is_measured_on_the_stores_clock(place):
    assert place.guard.seconds_left(ANN) is None
    assert place.guard.seconds_left(user("x", expires_at_ms=START_MS + 1500)) == 1.5
    assert place.guard.seconds_left(user("x", expires_at_ms=START_MS - 1)) == 0


@asynccontextmanager
async def running(place: Place) -> AsyncIterator[None]:
    loop = asyncio.create_task(place.guard.run())
    try:
        yield
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


async def ended(end: Ends) -> None:
    async with asyncio.timeout(5):
        await end.came.wait()


async def test_news_about_rights_are_acted_upon_at_once(place, monkeypatch):
    monkeypatch.setattr(stream_guard, "LOOK_SECONDS", 3600.0)
    end = Ends()
    async with running(place):
        with place.guard.watching(place.call(), end):
            await asyncio.sleep(0)  # let it subscribe
            place.judge.refusals["default"] = REVOKED
            place.hub.notify((access_topic(),))
            await ended(end)
    assert end.by == [REVOKED]
    assert place.hub.listener_count == 0


async def test_what_ends_by_itself_is_found_without_news(place, monkeypatch):
    monkeypatch.setattr(stream_guard, "LOOK_SECONDS", 0.01)
    end = Ends()
    place.judge.refusals["default"] = REVOKED
    async with running(place):
        with place.guard.watching(place.call(), end):
            await ended(end)


async def test_a_burst_of_news_costs_one_look_per_pause(place, monkeypatch):
    monkeypatch.setattr(stream_guard, "LOOK_SECONDS", 3600.0)
    async with running(place):
        with place.guard.watching(place.call(), Ends()):
            await asyncio.sleep(0)
            for _ in range(50):
                place.hub.notify((access_topic(),))
                for _ in range(3):
                    await asyncio.sleep(0)
            assert len(place.judge.asked) == 1
            await place.clock.advance(stream_guard.PAUSE_SECONDS)
            assert len(place.judge.asked) == 2


@pytest.mark.parametrize(("took", "pause"), [(0.1, 0.4), (9.0, 1.0)])
async def test_looks_that_take_long_are_made_more_rarely(place, monkeypatch, took, pause):
    monkeypatch.setattr(stream_guard, "LOOK_SECONDS", 3600.0)
    authorise = place.judge.authorise

    def slowly(*asked):
        place.clock.shift(took)
        return authorise(*asked)

    monkeypatch.setattr(place.judge, "authorise", slowly)
    async with running(place):
        with place.guard.watching(place.call(), Ends()):
            await asyncio.sleep(0)
            place.hub.notify((access_topic(),))
            await eventually("it rests", lambda: place.clock.sleepers == 1)
            place.hub.notify((access_topic(),))
            await place.clock.advance(pause - 0.01)
            assert len(place.judge.asked) == 1
            await place.clock.advance(0.02)
            assert len(place.judge.asked) == 2


async def test_a_wait_ends_with_the_refusal(place):
    enter_call(place.call())
    forever: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    asked = asyncio.create_task(place.guard.while_permitted(forever))
    await eventually("it waits", lambda: place.guard.watched == 1)
    place.judge.refusals["default"] = REVOKED
    await place.guard.look()
    with pytest.raises(CredentialRevoked):
        await asked
    assert forever.cancelled()


async def test_a_wait_that_is_answered_or_runs_out_of_time_is_left_alone(place):
    async def answer() -> int:
        return 7

    async def late() -> int:
        raise TimeoutError

    enter_call(place.call())
    assert await place.guard.while_permitted(answer()) == 7
    with pytest.raises(TimeoutError):
        await place.guard.while_permitted(late())


class Source:
    """Yields one message, then waits for ever; knows how it ended."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.seen: BaseException | None = None

    async def __call__(self, _request: Any) -> AsyncIterator[pb.WatchAgentsResponse]:
        try:
            yield delta("first")
            self.waiting.set()
            await asyncio.Event().wait()
        except BaseException as end:
            self.seen = end
            raise


@asynccontextmanager
async def guarded(place: Place, source: Any, caller: Any = ANN, **fields: Any) -> Any:
    fleet = Fleet()
    gate = Gate(place.judge, fleet.replica.read_model, fleet.admin)
    who = Identification(KnownCallers(me=caller), reads_certificates=False)
    async with edge(
        gate=gate, guard=place.guard, identification=who, messages=source, **fields
    ) as it:
        yield it


def watching(it: Edge) -> Any:
    return it.stub.WatchAgents(pb.WatchAgentsRequest(), metadata=showing("me"))


async def read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all(call)
    return caught.value.code(), caught.value.details() or ""


async def test_an_open_stream_ends_with_the_typed_reason_and_its_source_loses_the_peer(place):
    source = Source()
    async with guarded(place, source) as it:
        call = watching(it)
        assert await call.read() == delta("first")
        await source.waiting.wait()
        place.judge.refusals["default"] = REVOKED
        await place.guard.look()
        code, details = await status_of(call)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "was revoked" in details
    assert isinstance(source.seen, asyncio.CancelledError)
    assert place.guard.watched == 0


async def test_a_stream_whose_peer_does_not_read_ends_without_waiting_for_it(place):
    async def torrent(_request: Any) -> AsyncIterator[bytes]:
        message = delta("x" * 60_000).SerializeToString()
        while True:
            yield message

    async with guarded(place, torrent, limits=StreamLimits(write_seconds=600.0)) as it:
        call = watching(it)
        await call.read()
        pending = it.service.keeper.pending
        await eventually("a write waits", lambda: bool(pending._since))
        place.judge.refusals["default"] = REVOKED
        async with asyncio.timeout(5):
            await place.guard.look()
            await it.drain.idle.wait()
        assert (await status_of(call))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_is_sent_away_when_its_credential_ends(place):
    source, caller = Source(), agent("mine", expires_at_ms=START_MS + 50)
    async with guarded(place, source, caller) as it:
        call = watching(it)
        assert await call.read() == delta("first")
        last = await call.read()
        assert last.go_away.reason == watch_pb2.GoAway.Reason.REASON_MAX_AGE
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
    assert not isinstance(source.seen, asyncio.CancelledError)


async def test_a_source_that_ends_in_peace_does_not_hide_the_refusal(place):
    waiting = asyncio.Event()

    async def peaceful(_request: Any) -> AsyncIterator[pb.WatchAgentsResponse]:
        yield delta("first")
        try:
            waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async with guarded(place, peaceful) as it:
        call = watching(it)
        await call.read()
        await waiting.wait()
        place.judge.refusals["default"] = REVOKED
        await place.guard.look()
        assert (await status_of(call))[0] is grpc.StatusCode.UNAUTHENTICATED
