"""How a process leaves without losing work: it drains, releases what is left, says goodbye."""

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Final

from fleetplane._client import FleetClient
from fleetplane._exceptions import FleetError
from fleetplane._presence import AgentState, Presence
from fleetplane._task_runs import CallOff
from fleetplane._task_worker import TaskWorker

_log: Final = logging.getLogger("fleetplane")

REASON: Final = "the process stops"
"""What the plane reads about the drain."""

MIN_DEADLINE: Final = 1.0
"""Shortest deadline of a drain in seconds that the daemon accepts."""

DECISION: Final = 2.0
"""Seconds the plane gets at the deadline to decide by the class of each task, before this process
gives back what it still holds."""

RELEASE: Final = 5.0
"""Seconds that cancelled handlers get to end and to be given back."""

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""What asks a process to stop."""


async def drain_instance(
    client: FleetClient,
    presence: Presence,
    worker: TaskWorker,
    *,
    within: float,
    answer: float,
    hurry: asyncio.Event,
) -> None:
    """Take no new task, let those that run finish, give back the rest.

    Args:
        client: whose calls are used.
        presence: the instance.
        worker: its tasks.
        within: seconds the tasks may take to finish; 0 gives them back at once.
        answer: seconds the plane gets for each of its answers.
        hurry: set while this runs, it gives back the rest at once.
    """
    worker.refuse()
    was_busy = worker.busy
    told = False
    if within > 0 and presence.state.works:
        presence.retire(REASON)
        told = await _announce(client, presence.instance_id, within, answer)
    if not await _finished(worker, within + DECISION * told, hurry):
        worker.call_off(CallOff.RELEASE)
        if not await worker.finished(RELEASE):
            _log.warning("tasks of instance %s were not given back", presence.instance_id)
    elif was_busy and told:
        presence.nudge()
        await _confirm(client, presence.instance_id, answer)


async def _announce(client: FleetClient, instance_id: str, within: float, answer: float) -> bool:
    deadline = max(MIN_DEADLINE, within)
    try:
        await client.drain(
            instance_id=instance_id, deadline=deadline, reason=REASON, timeout=answer
        )
    except FleetError as error:
        _log.info("instance %s drains without the plane: %s", instance_id, error)
        return False
    return True


async def _finished(worker: TaskWorker, within: float, hurry: asyncio.Event) -> bool:
    if not worker.busy:
        return True
    if within <= 0:
        return False
    loop = asyncio.get_running_loop()
    work = loop.create_task(worker.finished(within), name="fleetplane-drain")
    rush = loop.create_task(hurry.wait(), name="fleetplane-drain-hurry")
    try:
        await asyncio.wait((work, rush), return_when=asyncio.FIRST_COMPLETED)
        return work.done() and work.result()
    finally:
        for task in (work, rush):
            task.cancel()
        await asyncio.gather(work, rush, return_exceptions=True)


async def _confirm(client: FleetClient, instance_id: str, answer: float) -> None:
    """Wait until the plane says, too, that nothing is in flight here."""
    try:
        drain = await client.get_drain(instance_id=instance_id, wait=answer, timeout=answer + 1)
    except FleetError as error:
        _log.info("nobody said that instance %s may stop: %s", instance_id, error)
        return
    if not drain.safe_to_stop:
        _log.info("the plane does not count instance %s as idle yet", instance_id)


async def wait_for_stop(
    ending: Coroutine[Any, Any, AgentState],
    signals: Sequence[signal.Signals],
    *,
    drain: Callable[[], Awaitable[None]] | None = None,
    hurry: asyncio.Event | None = None,
) -> signal.Signals | AgentState:
    """Wait for a signal, or for the end of an agent; return which.

    Args:
        ending: waits for the end of the agent.
        signals: what to wait for.
        drain: what a signal sets off.
        hurry: what a further signal sets during that.
    """
    loop = asyncio.get_running_loop()
    came: asyncio.Future[signal.Signals] = loop.create_future()
    ended = loop.create_task(ending, name="fleetplane-wait-ended")

    def note(number: signal.Signals) -> None:
        if not came.done():
            came.set_result(number)
        elif hurry is not None:
            hurry.set()

    try:
        with _caught(signals, note):
            await asyncio.wait((came, ended), return_when=asyncio.FIRST_COMPLETED)
            if not came.done():
                return ended.result()
            if drain is not None:
                await drain()
            return came.result()
    finally:
        came.cancel()
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)


@contextlib.contextmanager
def _caught(
    signals: Sequence[signal.Signals], note: Callable[[signal.Signals], None]
) -> Iterator[None]:
    """Call `note` for signals instead of dying of them, where this thread can hear them.

    Only the main thread hears signals, and on Windows not even its event loop does: there nothing
    is changed. Afterwards a signal does what it did before.
    """
    loop = asyncio.get_running_loop()
    installed: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            with contextlib.suppress(NotImplementedError):
                for number in signals:
                    before = signal.getsignal(number)
                    loop.add_signal_handler(number, note, number)
                    installed[number] = before
        yield
    finally:
        for number, before in installed.items():
            loop.remove_signal_handler(number)
            if before is not None:  # None: it was not set from Python, and cannot be
                signal.signal(number, before)
