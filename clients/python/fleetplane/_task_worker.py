"""Takes the tasks of one instance: listens for assignments, runs handlers, hears revocations."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from fleetplane._calls import MAX_BACKOFF, MIN_BACKOFF, Backoff, StreamReader
from fleetplane._connected import Connection
from fleetplane._exceptions import FleetError, Unimplemented
from fleetplane._presence import AgentState
from fleetplane._task_context import TaskHandlers
from fleetplane._task_leases import Lease, LeaseWriter
from fleetplane._task_runs import CallOff, RunSetting, TaskRun
from fleetplane._values import to_seconds
from fleetplane._watches import MAX_SILENCE
from fleetplane._work import WorkMeter
from fleetplane.v1 import task_service_pb2 as pb

_log: Final = logging.getLogger("fleetplane")

PATIENCE: Final = 5.0
"""Seconds a task waits for this process to hear that it may work: the plane assigns to active
agents only, so it knows more; half of the time it grants for the acceptance."""

REMEMBERED: Final = 1024
"""Leases that have ended here and are not begun again when a stream names them once more: more
than a replica that lags can name."""

WIND_DOWN: Final = 2.0
"""Seconds that handlers get to end after they were cancelled for good; a thread may take longer."""


class TaskWorker:
    """Runs the tasks of one instance while its agent is active.

    The heartbeat renews the leases, whatever the handlers do. After an interruption the plane names
    the tasks this process holds: those that run here are left alone, the others are given back.
    What runs here and is not among them was lost meanwhile, and is called off.

    Args:
        connection: open channel to the daemon.
        namespace: tenant of the instance.
        instance_id: the instance.
        generation: returns its present generation.
        handlers: what runs.
        meter: counts the work.
        slots: how many tasks run at the same time.
        nudge: makes the instance beat now.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: str,
        instance_id: str,
        *,
        generation: Callable[[], int],
        handlers: TaskHandlers,
        meter: WorkMeter,
        slots: int,
        nudge: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._instance_id = instance_id
        self._generation = generation
        self._handlers = handlers
        self._nudge = nudge
        self._loop = asyncio.get_running_loop()
        self._writer = LeaseWriter(connection, namespace, instance_id)
        self._threads = ThreadPoolExecutor(slots, "fleetplane-task")  # begins when it is used
        self._setting = RunSetting(
            writer=self._writer,
            meter=meter,
            slots=asyncio.Semaphore(slots),
            threads=self._threads,
            admitted=self._admitted,
        )
        self._runs: dict[Lease, tuple[TaskRun, asyncio.Task[None]]] = {}
        self._returns: set[asyncio.Task[None]] = set()
        self._over: OrderedDict[Lease, None] = OrderedDict()
        self._listener: asyncio.Task[None] | None = None
        self._state = AgentState.NEW
        self._active = asyncio.Event()
        self._refusing = False

    @property
    def busy(self) -> bool:
        """Whether a task is here: waiting, running, or its outcome not written yet."""
        return bool(self._runs) or bool(self._returns)

    @property
    def refusing(self) -> bool:
        """Whether every new task is given back."""
        return self._refusing

    def listen(self) -> None:
        """Listen for tasks from now on, if there are handlers and the agent is active."""
        if self._handlers and self._listener is None and self._state is AgentState.ACTIVE:
            self._listener = self._spawn(self._listen(), "listener")

    def state_changed(self, state: AgentState) -> None:
        """Follow the agent through its life."""
        self._state = state
        if state is AgentState.ACTIVE:
            self._active.set()
            self.listen()
            return
        self._active.clear()
        if state is AgentState.REGISTERING or state.final:
            self._fall_silent()  # the next stream belongs to another generation
        if state.final:
            self.call_off(CallOff.RELEASE if state is AgentState.STOPPED else CallOff.LOST)

    def refuse(self) -> None:
        """Give every new task back from now on."""
        self._refusing = True

    def call_off(self, how: CallOff) -> None:
        """Call off everything that runs."""
        for run, _ in self._runs.values():
            run.call_off(how)

    async def finished(self, within: float) -> bool:
        """Wait until no task is here; False if that takes longer than `within` seconds."""
        deadline = self._loop.time() + within
        while pending := [task for _, task in self._runs.values()] + list(self._returns):
            await asyncio.wait(pending, timeout=max(0.0, deadline - self._loop.time()))
            if self._loop.time() >= deadline:
                return not self.busy
        return True

    async def aclose(self) -> None:
        """End everything; what still runs is cancelled without a word to the plane. Idempotent."""
        self.refuse()
        listener = self._fall_silent()
        left = [task for _, task in self._runs.values()] + list(self._returns)
        for task in left:
            task.cancel()
        if listener is not None:
            left.append(listener)
        if left:
            _, late = await asyncio.wait(left, timeout=WIND_DOWN)
            if late:
                _log.warning("%d task handlers do not end though they were cancelled", len(late))
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fall_silent(self) -> "asyncio.Task[None] | None":
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
        return listener

    def _spawn(self, work: Coroutine[Any, Any, None], what: str) -> "asyncio.Task[None]":
        return self._loop.create_task(work, name=f"fleetplane-task-{what}")

    async def _listen(self) -> None:
        """Hold the stream of assignments open, again and again."""
        backoff = Backoff(MIN_BACKOFF, MAX_BACKOFF)
        while True:
            opened_at = self._loop.time()
            exchanges = self._connection.call.exchanges
            try:
                wait = await self._converse()
            except Unimplemented:
                _log.error("the daemon is too old to assign tasks")  # says it all
                return
            except FleetError as error:
                if await self._connection.call.renewed(error, exchanges):
                    continue
                # A replica that lags may not know this instance yet; the heartbeat hears the rest.
                _log.debug("the stream of tasks ended: %s", error)
                wait = error.retry_after
            backoff.reset(after=self._loop.time() - opened_at)
            await asyncio.sleep(backoff.next(wait))

    async def _converse(self) -> float | None:
        """Hold one stream until the daemon ends it; return the wait it asks for."""
        unnamed = set(self._runs)  # leases of earlier streams: some may have ended unheard
        request = pb.WatchTasksRequest(
            namespace=self._namespace,
            instance_id=self._instance_id,
            generation=self._generation(),
        )
        call = self._connection.tasks.WatchTasks(request, metadata=self._connection.call.metadata)
        reader = StreamReader(call, MAX_SILENCE)
        try:
            while (message := await reader.read()) is not None:
                match message.WhichOneof("event"):
                    case "assignment":
                        lease = Lease(
                            message.assignment.task.task_id, message.assignment.task.epoch
                        )
                        unnamed.discard(lease)
                        self._assigned(lease, message.assignment)
                    case "revoked":
                        self._revoked(Lease(message.revoked.task_id, message.revoked.epoch))
                    case "bookmark":  # every lease that is held was named by now
                        while unnamed:
                            self._revoked(unnamed.pop())
                    case "go_away":
                        return to_seconds(message.go_away.retry_after)
                    case _:
                        pass  # an event this SDK is too old to know
            return None
        finally:
            reader.close()

    def _assigned(self, lease: Lease, assignment: pb.TaskAssignment) -> None:
        if lease in self._runs or lease in self._over:
            return  # it runs here, or its end crossed this message
        if assignment.resumed:
            self._give_back(lease, "the process that ran it was interrupted")
        elif self._refusing or self._state is AgentState.DRAINING:
            self._give_back(lease, "the process takes no new work")
        else:
            self._begin(lease, assignment)

    def _begin(self, lease: Lease, assignment: pb.TaskAssignment) -> None:
        before = None
        for other, (run, task) in self._runs.items():
            if other.task_id == lease.task_id:  # the plane took it away and gave it back
                run.call_off(CallOff.LOST)
                before = task
        run = TaskRun(assignment, self._handlers.find, self._setting, before)
        task = self._spawn(run.run(), "run")
        self._runs[lease] = (run, task)
        task.add_done_callback(lambda _: self._ended(lease))

    def _ended(self, lease: Lease) -> None:
        del self._runs[lease]
        self._forget_later(lease)

    def _forget_later(self, lease: Lease) -> None:
        self._over[lease] = None
        while len(self._over) > REMEMBERED:
            self._over.popitem(last=False)

    def _revoked(self, lease: Lease) -> None:
        if lease in self._runs:
            self._runs[lease][0].call_off(CallOff.LOST)

    def _give_back(self, lease: Lease, why: str) -> None:
        self._forget_later(lease)
        task = self._spawn(self._release(lease, why), "return")
        self._returns.add(task)
        task.add_done_callback(self._returns.discard)

    async def _release(self, lease: Lease, why: str) -> None:
        try:
            await self._writer.release(lease, why)
        except FleetError as error:
            _log.info("task %s could not be given back: %s", lease.task_id, error)

    async def _admitted(self) -> None:
        """Wait until the agent may work, which the plane seems to think already."""
        if not self._active.is_set():
            self._nudge()
            async with asyncio.timeout(PATIENCE):
                await self._active.wait()
