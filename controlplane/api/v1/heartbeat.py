"""The heartbeat stream; the contract is `Heartbeat` in registry_service.proto.

One loop in the handler's own task reads, counts and answers: a second task or a queue per message
would cost more than the beats. The answer to a message of ordinary beats is bytes made ready
before, behind the number of the batch. What instances are commanded rides in the answers, and is
pushed between them when it is new; the task for that lives as long as the one write.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import grpc

from controlplane.api.context import Call, current_call
from controlplane.api.gate import confine_beats, enter_namespace, nothing_asked
from controlplane.api.streams import Ending, StreamKeeper, StreamWriter
from controlplane.api.v1.heartbeat_replies import HeartbeatReplies
from controlplane.domain.errors import DomainError, InvalidArgument
from controlplane.domain.identity import Caller
from controlplane.domain.liveness import LivenessSettings
from controlplane.services.beats import BeatIntake, BeatOutcome, Unusual
from controlplane.services.lifecycle.commands import Board, Commands, Owed
from controlplane.services.lifecycle.stop_answers import has_answered
from controlplane.services.liveness import Liveness
from controlplane.services.read_model import NamespaceView, ReadModel
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import watch_pb2

MAX_BEATS: Final = 1_000
"""Beats in one message, by contract: a millisecond or two of the event loop."""

Context = grpc.aio.ServicerContext[Any, Any]

MAX_COMMANDS: Final = 1_000
"""Commands in one pushed message: far below the size limit of messages."""


class Acknowledgements(Protocol):
    """Takes note of instances that have stopped; `EmergencyStops` does."""

    async def acknowledge_many(self, namespace: str, said: Iterable[tuple[str, str, int]]) -> None:
        """Note (stop_id, instance_id, generation) of each; never fails for want of the store."""


class Spends(Protocol):
    """What a stream may carry; `BeatBudget` is one."""

    def spend(self, beats: int) -> None:
        """Pay for a message of so many beats, or refuse it (RateLimited)."""


class HeartbeatStream:
    """Answers heartbeat streams."""

    def __init__(
        self,
        intake: BeatIntake,
        liveness: Liveness,
        read_model: ReadModel,
        settings: LivenessSettings,
        keeper: StreamKeeper,
        *,
        commands: Commands | None = None,
        stops: Acknowledgements | None = None,
        budget_of: Callable[[Caller], Spends] | None = None,
    ) -> None:
        """Answer beats; without `commands` and `stops` nobody is ever told to do anything.

        `budget_of` says how many beats a stream of a caller may carry; None: any number.
        """
        self.budget_of = budget_of
        self.commands = commands
        self.stops = stops
        self.intake = intake
        self.liveness = liveness
        self.read_model = read_model
        self.settings = settings
        self.keeper = keeper

    async def run(self, _requests: object, context: Context) -> None:
        """Answer one stream until the peer or the server ends it.

        The end of the stream means nothing to its instances. `_requests` is not used: reading from
        the context is cheaper than iterating.

        Raises:
            InvalidArgument: a malformed message; the beats of those before it count.
            NotReady: this replica has nothing loaded.
            LimitExceeded: the peer does not read its answers; RateLimited: it says too much.
            DomainError: the caller may not beat there, or no longer; ForeignAgent: an agent beats
                for an instance that is not its own.
        """
        session = _Session(self, context)
        with self.keeper.ending(session.end):
            await session.run()
        if session.refusal is not None:
            raise session.refusal
        if session.reason is not None:
            farewell = pb.HeartbeatResponse(go_away=self.keeper.go_away(session.reason))
            await session.writer.write(farewell)


class _Session:
    """One stream. Belongs to the task that makes it."""

    __slots__ = (
        "_call",
        "_context",
        "_members",
        "_namespace",
        "_owes",
        "_push_writer",
        "_pushing",
        "_reading",
        "_replies",
        "_server",
        "_task",
        "reason",
        "refusal",
        "writer",
    )

    def __init__(self, server: HeartbeatStream, context: Context) -> None:
        self._server = server
        self._call: Call = current_call()
        self._context = context
        self._task = asyncio.current_task()
        self._namespace = ""
        self._reading = False
        self._replies = HeartbeatReplies(server.settings)
        self._members: set[str] = set()
        """Instances that were seen on this stream: whom its pushes are for."""
        self._owes = False
        self._pushing: asyncio.Task[None] | None = None
        self.writer: StreamWriter[pb.HeartbeatResponse] = StreamWriter(context, server.keeper)
        self._push_writer = self.writer
        self.reason: watch_pb2.GoAway.Reason.ValueType | None = None
        """Why the stream is sent away, once it is."""
        self.refusal: DomainError | None = None
        """Why the stream is refused, once it is."""

    def end(self, why: Ending) -> None:
        """Read nothing more; a message that is being answered is finished first.

        Of a stream that is refused no answer is waited for that the peer does not read.
        """
        if self._reading and self._task is not None and not self._ending():
            self._task.cancel()
        if not isinstance(why, DomainError):
            self.reason = why if self.reason is None else self.reason
        elif self.refusal is None:
            self.refusal = why
            self.writer.refuse(why)
            if self._push_writer is not self.writer:
                self._push_writer.refuse(why)

    def _ending(self) -> bool:
        return self.reason is not None or self.refusal is not None

    async def run(self) -> None:
        """Answer messages until there are no more."""
        try:
            await self._answer_all()
        finally:
            if self._members and self._server.commands is not None:
                self._server.commands.closed(self._namespace, self._members, self.push)
            if self._pushing is not None:
                self._pushing.cancel()
                await asyncio.gather(self._pushing, return_exceptions=True)

    async def _answer_all(self) -> None:
        request = await self._read()
        if request is None:
            nothing_asked(self._call)
            return
        self._namespace = enter_namespace(request.namespace)
        with self._server.keeper.permitted(self.end):
            await self._answer_from(request)

    async def _answer_from(  # noqa: C901 - one loop: a call per message would cost as much as a beat
        self, first: pb.HeartbeatRequest
    ) -> None:
        """Answer the first message and those that follow."""
        request: pb.HeartbeatRequest | None = first
        call, is_confined = self._call, self._call.confined
        # Bound once: this loop is what a beat in a message of its own costs.
        view_of, accept = self._server.read_model.view, self._server.intake.accept
        commands, replies = self._server.commands, self._replies
        answer_to, write = replies.to, self.writer.write
        budget_of = self._server.budget_of
        spend = None if budget_of is None else budget_of(call.caller).spend
        while request is not None:
            beats = request.beats
            if spend is not None:
                spend(len(beats))
            if not request.batch or len(beats) > MAX_BEATS:
                raise _malformed(request)
            view = view_of(self._namespace)
            if is_confined:
                await confine_beats(call, view, request)
                view = view_of(self._namespace)
            unusual = accept(view, beats)
            outcomes: list[BeatOutcome] = []
            if unusual:
                outcomes = await self._server.liveness.settle(self._namespace, unusual)
                view = view_of(self._namespace)
                replies.joined |= self._newcomers(view, unusual)
            owed: Sequence[Owed] = ()
            if commands is not None:
                board = commands.board(view)
                if board or replies.urgent:
                    owed = await self._obeyed(view, beats, board)
            if self._pushing is not None:
                await self._pushed()
            answer = answer_to(request, view, outcomes, owed)
            if replies.joined:
                self._join(view, owed)
            await write(answer)
            if self._owes:
                await self._push(self.writer)
            request = await self._read()
        if self.refusal is None:
            await self._pushed()

    def _newcomers(self, view: NamespaceView, unusual: Iterable[Unusual]) -> set[str]:
        """Return who comes to life on a stream that may be old: to be reached at once as well."""
        names = {one.beat.instance_id for one in unusual}
        return {name for name in names - self._members if name in view.instances}

    async def _obeyed(
        self, view: NamespaceView, beats: Iterable[pb.Beat], board: Board
    ) -> list[Owed]:
        """Return what the instances of a message are owed; note who says that it has stopped."""
        owed: list[Owed] = []
        said: list[tuple[str, str, int]] = []
        for beat in beats:
            one = board.get(beat.instance_id)
            if one is None:
                continue
            if beat.acknowledged_stop and one.stop_id:
                said.append((beat.acknowledged_stop, beat.instance_id, beat.generation))
                if beat.acknowledged_stop == one.stop_id:
                    continue
            if not one.stop_id or not has_answered(view, one.stop_id, beat.instance_id):
                owed.append(one)
        if said and self._server.stops is not None:
            await self._server.stops.acknowledge_many(self._namespace, said)
        self._replies.urgent = any(one.urgent for one in owed) or any(
            one.urgent for one in self._owed(view, board)
        )
        return owed

    def _owed(self, view: NamespaceView, board: Board) -> Iterable[Owed]:
        """Yield what the instances of this stream are owed."""
        for name in self._members:
            one = board.get(name)
            if one is not None and not (one.stop_id and has_answered(view, one.stop_id, name)):
                yield one

    def _join(self, view: NamespaceView, told: Sequence[Owed]) -> None:
        """Have this stream told what the instances that were seen on it are owed."""
        joined, self._replies.joined = self._replies.joined, set()
        commands = self._server.commands
        if commands is None:
            return
        gone = {name for name in self._members if name not in view.instances}
        commands.closed(self._namespace, gone, self.push)
        self._members = (self._members - gone) | joined
        commands.carried(self._namespace, joined, self.push)
        # What was decided while this message was answered has found nobody to tell.
        self._owes = self._owes or any(
            one not in told for one in self._owed(view, commands.board(view))
        )

    def push(self) -> None:
        """Be told that instances of this stream are owed something new."""
        pushing = self._pushing
        if pushing is not None and pushing.done() and not pushing.cancelled():
            # One that failed stays: the next answer fails as it did.
            pushing = self._pushing = pushing if pushing.exception() is not None else None
        if self._reading and pushing is None and not self._ending():
            self._pushing = asyncio.create_task(self._push_apart())
        else:
            # Whoever is writing now does it next.
            self._owes = True

    async def _push_apart(self) -> None:
        """Push while the stream's own task reads."""
        writer: StreamWriter[pb.HeartbeatResponse] = StreamWriter(
            self._context, self._server.keeper
        )
        self._push_writer = writer
        await self._push(writer)
        while self._owes:
            await self._push(writer)

    async def _push(self, writer: StreamWriter[pb.HeartbeatResponse]) -> None:
        self._owes = False
        commands = self._server.commands
        if commands is None:
            return
        view = self._server.read_model.view(self._namespace)
        owed = list(self._owed(view, commands.board(view)))
        self._replies.urgent = any(one.urgent for one in owed)
        for start in range(0, len(owed), MAX_COMMANDS):
            await writer.write(self._replies.pushed(view, owed[start : start + MAX_COMMANDS]))

    async def _pushed(self) -> None:
        """Wait until the push that is under way is written: one write at a time."""
        pushing = self._pushing
        if pushing is not None:
            await pushing
            self._pushing = None

    async def _read(self) -> pb.HeartbeatRequest | None:
        """Return the next message; None when the stream has ended or is to be ended."""
        if self._ending():
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


def _malformed(request: pb.HeartbeatRequest) -> InvalidArgument:
    if not request.batch:
        return InvalidArgument.of("batch", "must not be 0")
    return InvalidArgument.of("beats", f"a message holds at most {MAX_BEATS}")
