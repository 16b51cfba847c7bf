"""The heartbeat stream; the contract is `Heartbeat` in registry_service.proto.

One loop in the handler's own task reads, counts and answers: a second task or a queue per message
would cost more than the beats. The answer to a message of ordinary beats is bytes made ready
before, behind the number of the batch.
"""

import asyncio
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import grpc

from controlplane.api.streams import StreamKeeper, StreamWriter
from controlplane.api.wire import varint
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.identity import namespace_of
from controlplane.domain.liveness import LivenessSettings
from controlplane.services.beats import BeatIntake, BeatOutcome, Outcome, grant_of
from controlplane.services.liveness import Liveness
from controlplane.services.ports import Position
from controlplane.services.read_model import NamespaceView, ReadModel
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import watch_pb2

MAX_BEATS: Final = 1_000
"""Beats in one message, by contract: a millisecond or two of the event loop."""

OBSERVE_AGAIN_SECONDS: Final = 60.0
"""How often the shortest grant on a stream is found anew: overrides change rarely."""

Context = grpc.aio.ServicerContext[Any, Any]

_OUTCOMES: Final[Mapping[Outcome, "pb.BeatResult.Outcome.ValueType"]] = MappingProxyType(
    {outcome: pb.BeatResult.Outcome.Value(f"OUTCOME_{outcome}") for outcome in Outcome}
)

_BATCH_TAG: Final = b"\x08"
"""Field 1, varint: `HeartbeatResponse.batch`."""


class HeartbeatStream:
    """Answers heartbeat streams."""

    def __init__(
        self,
        intake: BeatIntake,
        liveness: Liveness,
        read_model: ReadModel,
        settings: LivenessSettings,
        keeper: StreamKeeper,
    ) -> None:
        self.intake = intake
        self.liveness = liveness
        self.read_model = read_model
        self.settings = settings
        self.keeper = keeper

    async def run(self, _requests: object, context: Context) -> None:
        """Answer one stream until the peer ends it, the replica drains or it is too old.

        The end of the stream means nothing to its instances. `_requests` is not used: reading from
        the context is cheaper than iterating.

        Raises:
            InvalidArgument: a malformed message; the beats of those before it count.
            NotReady: this replica has nothing loaded.
            LimitExceeded: the peer does not read its answers.
        """
        session = _Session(self, context)
        with self.keeper.ending(session.end):
            await session.run()
        if session.reason is not None:
            farewell = pb.HeartbeatResponse(go_away=self.keeper.go_away(session.reason))
            await session.writer.write(farewell)


class _Session:
    """One stream. Belongs to the task that makes it."""

    __slots__ = (
        "_context",
        "_namespace",
        "_reading",
        "_replies",
        "_server",
        "_task",
        "reason",
        "writer",
    )

    def __init__(self, server: HeartbeatStream, context: Context) -> None:
        self._server = server
        self._context = context
        self._task = asyncio.current_task()
        self._namespace = ""
        self._reading = False
        self._replies = _Replies(server.settings)
        self.writer: StreamWriter[pb.HeartbeatResponse] = StreamWriter(context, server.keeper)
        self.reason: watch_pb2.GoAway.Reason.ValueType | None = None

    def end(self, reason: "watch_pb2.GoAway.Reason.ValueType") -> None:
        """Read nothing more; a message that is being answered is finished first."""
        if self.reason is not None:
            return
        self.reason = reason
        if self._reading and self._task is not None:
            self._task.cancel()

    def _ending(self) -> bool:
        return self.reason is not None

    async def run(self) -> None:
        """Answer messages until there are no more."""
        request = await self._read()
        if request is None:
            return
        self._namespace = namespace_of(request.namespace)
        # Bound once: this loop is what a beat in a message of its own costs.
        view_of, accept = self._server.read_model.view, self._server.intake.accept
        answer_to, write = self._replies.to, self.writer.write
        while request is not None:
            beats = request.beats
            if not request.batch or len(beats) > MAX_BEATS:
                raise _malformed(request)
            view = view_of(self._namespace)
            unusual = accept(view, beats)
            outcomes: list[BeatOutcome] = []
            if unusual:
                outcomes = await self._server.liveness.settle(self._namespace, unusual)
                view = view_of(self._namespace)
            await write(answer_to(request, view, outcomes))
            request = await self._read()

    async def _read(self) -> pb.HeartbeatRequest | None:
        """Return the next message; None when the stream has ended or is to be ended."""
        if self.reason is not None:
            return None
        self._reading = True
        try:
            request = await self._context.read()
        except asyncio.CancelledError:
            # `end` cancels only this read; any other cancellation goes on.
            if self._ending() and self._task is not None and self._task.uncancel() == 0:
                return None
            raise
        finally:
            self._reading = False
        return None if request is grpc.aio.EOF else request


class _Replies:
    """The answers of one stream, and the pace they ask for."""

    __slots__ = (
        "_first",
        "_grant",
        "_loop",
        "_observe_again_at",
        "_observe_until",
        "_observed",
        "_position",
        "_ready",
        "_settings",
    )

    def __init__(self, settings: LivenessSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._grant = settings.degraded_after_ms
        self._observed: int | None = None
        self._first = ""
        self._observe_until = 0.0
        self._observe_again_at = 0.0
        self._position: Position | None = None
        self._ready = b""
        """The answer to ordinary beats, without its batch."""

    def to(
        self, request: pb.HeartbeatRequest, view: NamespaceView, outcomes: Iterable[BeatOutcome]
    ) -> bytes:
        """Return the answer to a message, as bytes."""
        now = self._loop.time()
        if now < self._observe_until or now >= self._observe_again_at:
            self._observe(request, view, now)
        if view.position is not self._position:
            self._ready = self._prepared(view)
            self._position = view.position
        answer = _BATCH_TAG + varint(request.batch) + self._ready
        if outcomes:
            # Concatenated messages are one message.
            answer += _results(outcomes)
        return answer

    def _observe(self, request: pb.HeartbeatRequest, view: NamespaceView, now: float) -> None:
        """Find the shortest grant on this stream, over one round of its messages."""
        beats = request.beats
        if now >= self._observe_again_at:
            self._observed = None
            self._first = beats[0].instance_id if beats else ""
            self._observe_until = now + 2 * self._settings.interval_ms / 1000
            self._observe_again_at = self._observe_until + OBSERVE_AGAIN_SECONDS
        elif beats and beats[0].instance_id == self._first:
            self._observe_until = now  # The round begins anew: everybody was seen.
            return
        for beat in beats:
            live = view.instances.get(beat.instance_id)
            if live is not None:
                grant = grant_of(view, live, self._settings)
                self._observed = grant if self._observed is None else min(self._observed, grant)
        shortest = self._observed or self._settings.degraded_after_ms
        if shortest != self._grant:
            self._grant = shortest
            self._position = None

    def _prepared(self, view: NamespaceView) -> bytes:
        interval_ms = self._settings.interval_for(self._grant, len(view.instances))
        position = view.position
        reply = pb.HeartbeatResponse(
            head=watch_pb2.WatchPosition(epoch=position.epoch, revision=position.revision)
        )
        reply.next_interval.FromMilliseconds(interval_ms)
        reply.ttl.FromMilliseconds(self._grant)
        return reply.SerializeToString()


def _malformed(request: pb.HeartbeatRequest) -> InvalidArgument:
    if not request.batch:
        return InvalidArgument.of("batch", "must not be 0")
    return InvalidArgument.of("beats", f"a message holds at most {MAX_BEATS}")


def _results(outcomes: Iterable[BeatOutcome]) -> bytes:
    return pb.HeartbeatResponse(
        results=[
            pb.BeatResult(
                instance_id=outcome.instance_id,
                outcome=_OUTCOMES[outcome.outcome],
                detail=outcome.detail,
            )
            for outcome in outcomes
        ]
    ).SerializeToString()
