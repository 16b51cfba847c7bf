"""One heartbeat stream for all instances of a process.

The daemon sets the pace: a full round of beats goes out one interval after the answer to the last
one, with up to a tenth of jitter. What must be said at once (a new instance, an outcome of a
configuration, a goodbye) goes out after a few milliseconds, together with everything else that
became urgent meanwhile. A missing answer never speeds anything up: the stream is given up and
opened again after a random, growing wait.
"""

import asyncio
import logging
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

import grpc

from fleetplane._calls import MAX_BACKOFF, MIN_BACKOFF, Backoff, StreamReader, is_final, jittered
from fleetplane._connected import Connection
from fleetplane._exceptions import FleetError, Unavailable
from fleetplane._values import to_seconds
from fleetplane.v1 import registry_service_pb2 as pb

_log: Final = logging.getLogger("fleetplane")

MAX_BEATS: Final = 1000
"""Beats the daemon accepts in one message."""

GATHER: Final = 0.005
"""Seconds an urgent beat waits for others: a crew that starts together speaks together."""

FIRST_ANSWER: Final = 10.0
"""Seconds to wait for an answer before the daemon has named its ttl; then half of that."""

CHECK: Final = 1.0
"""Seconds between looks at overdue answers; the daemon may shorten its ttl at any time."""

DEFAULT_INTERVAL: Final = 10.0
"""Seconds between rounds if the daemon names none."""


class Beating(Protocol):
    """One instance that shows signs of life."""

    @property
    def instance_id(self) -> str:
        """Identity of the process."""
        raise NotImplementedError

    def write_beat(self, beat: pb.Beat, *, everything: bool) -> None:
        """Fill in a beat; with `everything`, also what the last stream has been told."""

    def heard(self, at: float, ttl: float, *, remarked: bool) -> None:
        """A beat was counted; silence is tolerated for `ttl` seconds from `at` (loop time)."""

    def answered(self, result: pb.BeatResult) -> None:
        """A beat was not simply accepted."""

    def commanded(self, command: pb.Command) -> None:
        """The daemon wants something done."""

    def refused(self, error: FleetError) -> None:
        """The daemon takes no beats of this process, for who it is or what it says."""


@dataclass(slots=True)
class _Sent:
    """One message that waits for its answer."""

    members: tuple[Beating, ...]
    at: float
    full_round: bool


class HeartbeatHub:
    """The beats of many instances on one stream.

    Args:
        connection: open channel to the daemon.
        namespace: tenant of all instances.
    """

    def __init__(self, connection: Connection, namespace: str) -> None:
        self._connection = connection
        self._namespace = namespace
        self._loop = asyncio.get_running_loop()
        self._members: dict[str, Beating] = {}
        self._urgent: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._unanswered: dict[int, _Sent] = {}
        self._batch = 0
        self._interval = DEFAULT_INTERVAL
        self._patience = FIRST_ANSWER
        self._round_at: float | None = None
        self._backoff = Backoff(MIN_BACKOFF, MAX_BACKOFF)
        self._retry_after: float | None = None
        self._opened_at = 0.0
        self._complaint = ""
        self._exchanges = 0
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether nobody can beat here any more."""
        return self._closed

    def join(self, member: Beating) -> None:
        """Beat for an instance from now on, the first time at once; nothing once closed."""
        if self._closed:
            return
        self._members[member.instance_id] = member
        self.nudge(member)
        if self._task is None:
            self._task = self._loop.create_task(self._run(), name="fleetplane-heartbeat")

    def leave(self, member: Beating) -> None:
        """Stop beating for an instance, without a word."""
        if self._members.get(member.instance_id) is member:
            del self._members[member.instance_id]
            self._urgent.pop(member.instance_id, None)
            if not self._members:
                self._wake.set()  # nobody is left: the stream need not wait for its next round

    def nudge(self, member: Beating) -> None:
        """Let an instance beat now instead of at the next round."""
        if member.instance_id in self._members:
            self._urgent[member.instance_id] = None
            self._wake.set()

    async def aclose(self) -> None:
        """End the stream and the task behind it; idempotent."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            if not self._members:
                self._wake.clear()
                await self._wake.wait()
            try:
                await self._converse()
            except FleetError as error:
                if await self._connection.call.renewed(error, self._exchanges):
                    continue
                self._retry_after = error.retry_after
                self._complain(error)
            except Exception:  # noqa: BLE001  # a defect of ours must not silence a whole process
                _log.exception("the heartbeat stream failed")
            wait = self._backoff.next(self._retry_after)
            self._retry_after = None
            await asyncio.sleep(wait)

    def _complain(self, error: FleetError) -> None:
        """Tell everybody of a refusal that will not pass by itself; the log hears it once."""
        news = is_final(error) and str(error) != self._complaint
        level = logging.WARNING if news else logging.DEBUG
        _log.log(level, "the heartbeat stream ended: %s", error)
        if is_final(error):
            self._complaint = str(error)
            for member in tuple(self._members.values()):
                member.refused(error)

    async def _converse(self) -> None:
        """Hold one stream until it ends; raise why, if it did not end in peace."""
        self._unanswered.clear()
        self._round_at = self._opened_at = self._loop.time()
        self._exchanges = self._connection.call.exchanges
        call = self._connection.registry.Heartbeat(metadata=self._connection.call.metadata)
        reader = StreamReader(call, silence=0)
        tasks = (
            self._loop.create_task(self._read(reader), name="fleetplane-heartbeat-reader"),
            self._loop.create_task(self._write(call), name="fleetplane-heartbeat-writer"),
        )
        try:
            await self._attend(tasks)
        finally:
            reader.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _attend(self, tasks: Iterable["asyncio.Task[None]"]) -> None:
        """Wait until one side ends, or an answer is overdue."""
        while True:
            done, _ = await asyncio.wait(
                tasks,
                timeout=min(CHECK, self._until_overdue()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if done:
                break
            if self._until_overdue() <= 0:
                raise Unavailable(f"beats were not answered within {self._patience:g} s")
        reader, writer = tasks
        if not reader.done():
            # The writer noticed first that the stream is broken; the reader knows why.
            await asyncio.wait((reader,), timeout=1.0)
        for task in (reader, writer):
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    def _until_overdue(self) -> float:
        for sent in self._unanswered.values():
            return sent.at + self._patience - self._loop.time()
        return self._patience

    async def _write(self, call: Any) -> None:
        """Send while there is somebody to beat for; the only writer of its stream."""
        try:
            await self._send_rounds(call)
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            _log.debug("the heartbeat stream takes no more beats: %s", error)  # its reader says why

    async def _send_rounds(self, call: Any) -> None:
        everything = True
        while self._members:
            now = self._loop.time()
            full_round = self._round_at is not None and now >= self._round_at
            if full_round:
                self._round_at = None  # set again by the answer
                members = tuple(self._members.values())
            else:
                members = tuple(
                    self._members[name] for name in self._urgent if name in self._members
                )
            self._urgent.clear()
            self._wake.clear()
            for part in _parts(members):
                await call.write(self._message(part, everything=everything, full_round=full_round))
            everything = False
            await self._pause()

    def _message(
        self, members: tuple[Beating, ...], *, everything: bool, full_round: bool
    ) -> pb.HeartbeatRequest:
        self._batch += 1
        request = pb.HeartbeatRequest(namespace=self._namespace, batch=self._batch)
        for member in members:
            member.write_beat(request.beats.add(), everything=everything)
        self._unanswered[self._batch] = _Sent(members, self._loop.time(), full_round)
        return request

    async def _pause(self) -> None:
        """Wait for the next round or for something urgent."""
        while not self._wake.is_set():
            due = self._round_at
            if due is not None and due <= self._loop.time():
                return
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                return
        if self._urgent:
            await asyncio.sleep(GATHER)

    async def _read(self, reader: StreamReader) -> None:
        while (response := await reader.read()) is not None:
            self._receive(response)
            if response.HasField("go_away"):
                self._retry_after = to_seconds(response.go_away.retry_after)
                return

    def _receive(self, response: pb.HeartbeatResponse) -> None:
        now = self._loop.time()
        sent = self._unanswered.pop(response.batch, None)
        if interval := to_seconds(response.next_interval):
            self._interval = interval
        ttl = to_seconds(response.ttl)
        if ttl:
            self._patience = ttl / 2
        self._plan(now, full_round=sent is not None and sent.full_round)
        outcomes = {one.instance_id: one.outcome for one in response.results}
        if sent is not None:
            self._complaint = ""
            self._backoff.reset(after=now - self._opened_at)
            held_back = {one.instance_id for one in response.commands if one.kind in _HOLDS_BACK}
            for member in sent.members:
                name = member.instance_id
                outcome = outcomes.get(name)
                if outcome is None or outcome in _COUNTED:
                    member.heard(now, ttl, remarked=outcome is not None or name in held_back)
        for result in response.results:
            if target := self._members.get(result.instance_id):
                target.answered(result)
        self._pass_on(response.commands, refused=outcomes)

    def _pass_on(self, commands: Iterable[pb.Command], *, refused: Container[str]) -> None:
        for command in commands:
            if command.kind == pb.Command.KIND_DRAIN and command.instance_id in refused:
                continue  # it takes no work anyway, for the reason that the outcome names
            if target := self._members.get(command.instance_id):
                target.commanded(command)

    def _plan(self, now: float, *, full_round: bool) -> None:
        """Set the time of the next round, one interval after the answer to the last."""
        due = now + jittered(self._interval)
        if full_round:
            self._round_at = due
        elif self._round_at is not None:
            self._round_at = min(self._round_at, due)
        self._wake.set()


_COUNTED: Final = frozenset(
    {
        pb.BeatResult.OUTCOME_INACTIVE,
        pb.BeatResult.OUTCOME_NOT_ACTIVATED,
    }
)
"""Outcomes of beats that count as signs of life."""

_HOLDS_BACK: Final = frozenset({pb.Command.KIND_DRAIN, pb.Command.KIND_STOP})
"""Commands that say of a counted beat that the instance takes no work all the same."""


def _parts(members: tuple[Beating, ...]) -> Iterator[tuple[Beating, ...]]:
    iterator = iter(members)
    while part := tuple(islice(iterator, MAX_BEATS)):
        yield part
