"""Agents that do their tasks at once, and submitters that wait until they are done.

The same client drives the daemon and the floor.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

import grpc

from fleetplane.v1 import agent_pb2
from fleetplane.v1 import task_service_pb2 as pb
from tests.bench.fleet import Member, ordinary_spec
from tests.bench.servers import Server, can
from tests.bench.wire import Replies, next_reply, subscribe, unary

TASKS: Final = "/fleetplane.v1.TaskService/"
SLOTS: Final = 10
"""Tasks that an instance works on at a time."""

CAPABILITY: Final = "crunch"
BATCH: Final = 100
"""Tasks in one BatchSubmitTasks."""

PAYLOAD: Final = b"x" * 256
RESULT: Final = b"y" * 256
TASK_SECONDS: Final = 30.0
"""Longest from the submission to the end of a task; it is lost then, and the benchmark fails."""


class Journey(NamedTuple):
    """When a task came by, by `time.perf_counter`."""

    delivered: float
    accepted: float
    completed: float


class Trip(NamedTuple):
    """Seconds from the submission of a task."""

    delivered: float
    completed: float


def worker_spec(number: int) -> agent_pb2.AgentSpec:
    """Return an agent that can do the tasks."""
    spec = ordinary_spec(number)
    spec.capabilities.append(CAPABILITY)
    spec.max_concurrency = SLOTS
    return spec


def submission() -> pb.SubmitTaskRequest:
    """Return the request of one task."""
    spec = pb.TaskSpec(kind="summarize", capabilities=[CAPABILITY])
    return pb.SubmitTaskRequest(spec=spec, payload=PAYLOAD)


class Journeys:
    """Where submitters hear that their tasks are done, whichever replica did them."""

    def __init__(self, *, anonymous: bool = False) -> None:
        """Match by task id; with `anonymous` any end to any submission, as for canned replies."""
        self._anonymous = anonymous
        self._over: defaultdict[str, deque[Journey]] = defaultdict(deque)
        self._waiting: defaultdict[str, deque[asyncio.Future[Journey]]] = defaultdict(deque)

    def note(self, task_id: str, journey: Journey) -> None:
        """Be told that a task is done."""
        key = "" if self._anonymous else task_id
        waiting = self._waiting.get(key)
        if not waiting:
            self._over[key].append(journey)
            return
        waiting.popleft().set_result(journey)
        if not waiting:
            del self._waiting[key]

    async def of(self, task_id: str) -> Journey:
        """Wait until a task is done."""
        key = "" if self._anonymous else task_id
        over = self._over.get(key)
        if over:
            journey = over.popleft()
            if not over:
                del self._over[key]
            return journey
        future: asyncio.Future[Journey] = asyncio.get_running_loop().create_future()
        self._waiting[key].append(future)
        return await future


class TaskFleet:
    """Instances on WatchTasks streams, and who submits to them."""

    def __init__(self, server: Server, journeys: Journeys) -> None:
        self.journeys = journeys
        self.samples: dict[str, bytes] = {}
        """Method -> the first reply to it, or message of its stream."""
        self.trips: list[Trip] = []
        """Every task since this was last cleared."""
        self._server = server
        self._at_work: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._one = submission().SerializeToString()
        self._many = pb.BatchSubmitTasksRequest(tasks=[submission()] * BATCH).SerializeToString()
        self._submit = unary(server.channel, f"{TASKS}SubmitTask")
        self._submit_many = unary(server.channel, f"{TASKS}BatchSubmitTasks")

    async def open(self, members: Sequence[Member], stack: AsyncExitStack) -> None:
        """Open a connection and a stream for each instance, until `stack` is left."""
        for member in members:
            channel = await stack.enter_async_context(self._server.new_channel())
            worker = _Worker(self, channel, member)
            stream = subscribe(channel, f"{TASKS}WatchTasks", worker.request())
            task = asyncio.create_task(worker.run(stream))
            stack.callback(task.cancel)
            stack.callback(stream.cancel)

    async def one(self) -> None:
        """Submit one task and wait until it is done."""
        began = time.perf_counter()
        raw = await self._submit(self._one)
        self.samples.setdefault("SubmitTask", raw)
        await self._done(pb.SubmitTaskResponse.FromString(raw).task.task_id, began)

    async def many(self) -> None:
        """Submit a batch and wait until all of it is done."""
        began = time.perf_counter()
        raw = await self._submit_many(self._many)
        self.samples.setdefault("BatchSubmitTasks", raw)
        results = pb.BatchSubmitTasksResponse.FromString(raw).results
        await asyncio.gather(*(self._done(one.task.task_id, began) for one in results))

    async def teach(self, floor: Server) -> None:
        """Make the floor answer as the daemon did."""
        for name, raw in self.samples.items():
            await can(floor, f"{TASKS}{name}", raw)

    def start(self, work: asyncio.Task[None]) -> None:
        """Keep the work on one task until it is over."""
        self._at_work.add(work)
        work.add_done_callback(self._worked)

    def _worked(self, work: asyncio.Task[None]) -> None:
        self._at_work.discard(work)
        if not work.cancelled() and work.exception() is not None:
            self._failure = work.exception()

    async def _done(self, task_id: str, began: float) -> None:
        try:
            async with asyncio.timeout(TASK_SECONDS):
                journey = await self.journeys.of(task_id)
        except TimeoutError:
            raise RuntimeError(f"task {task_id} was not done: {self._failure!r}") from None
        self.trips.append(Trip(journey.delivered - began, journey.completed - began))


class _Worker:
    """One instance."""

    def __init__(self, fleet: TaskFleet, channel: grpc.aio.Channel, member: Member) -> None:
        self._fleet = fleet
        self._member = member
        self._accept = unary(channel, f"{TASKS}AcceptTask")
        self._complete = unary(channel, f"{TASKS}CompleteTask")

    def request(self) -> bytes:
        member = self._member
        request = pb.WatchTasksRequest(instance_id=member.instance_id, generation=member.generation)
        return request.SerializeToString()

    async def run(self, stream: Replies) -> None:
        while True:
            raw = await next_reply(stream)
            at = time.perf_counter()
            message = pb.WatchTasksResponse.FromString(raw)
            if message.HasField("assignment"):
                self._fleet.samples.setdefault("WatchTasks", raw)
                task = message.assignment.task
                self._fleet.start(asyncio.create_task(self._work(task.task_id, task.epoch, at)))

    async def _work(self, task_id: str, epoch: int, delivered: float) -> None:
        lease = pb.TaskLease(task_id=task_id, instance_id=self._member.instance_id, epoch=epoch)
        raw = await self._accept(pb.AcceptTaskRequest(lease=lease).SerializeToString())
        accepted = time.perf_counter()
        self._fleet.samples.setdefault("AcceptTask", raw)
        request = pb.CompleteTaskRequest(lease=lease, result=RESULT)
        raw = await self._complete(request.SerializeToString())
        completed = time.perf_counter()
        self._fleet.samples.setdefault("CompleteTask", raw)
        self._fleet.journeys.note(task_id, Journey(delivered, accepted, completed))
