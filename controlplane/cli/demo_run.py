"""The course of a demo: a daemon, agents, a view, chaos, and a clean end."""

import asyncio
import contextlib
import random
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from controlplane.cli.call import Globals, Output
from controlplane.cli.credentials import NO_CREDENTIALS
from controlplane.cli.demo_agent import TAGS, Crew, agent_name
from controlplane.cli.demo_board import Board
from controlplane.cli.demo_processes import CrewProcess, own_daemon
from controlplane.cli.demo_view import LinesView, LiveView, View
from controlplane.cli.outcomes import CommandFailed
from fleetplane import AgentStatus, FleetClient, FleetError, Unavailable

PROBE: Final = 2.0
"""Seconds the daemon at the address has to answer before the demo runs its own."""

REFRESH: Final = 0.5
"""Seconds between two looks at loads, and between two frames."""

QUIET: Final = 3.0
"""Seconds of peace before a process is killed, and before it is started again."""

ARRIVAL: Final = 60.0
"""Seconds everybody has to become ACTIVE."""

NOTICE: Final = 180.0
"""Seconds the plane has to notice a death; a daemon of ours needs 2, a usual one 30."""

_CHANCE: Final = random.SystemRandom()


class Tell(Protocol):
    """Notes that something happened; see `Board.tell`."""

    def __call__(self, event: str, text: str, **details: Any) -> None:
        """Note it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a demo is like."""

    agents: int
    """How many agents."""
    processes: int
    """Over how many processes."""
    duration: float | None
    """Seconds after which it ends; None: when it is interrupted."""
    chaos: bool
    """Whether processes are killed."""
    own: bool
    """Whether it runs a daemon of its own even where one answers."""


async def run(call: Globals, options: Options) -> None:
    """Run a demo to its end.

    Raises:
        CommandFailed: the daemon or the agents did not start.
        FleetError: the daemon refuses to be watched.
    """
    live = call.output is Output.TABLE and sys.stdout.isatty()
    view: View = LiveView() if live else LinesView(call.output)
    board = Board((agent_name(one) for one in range(options.agents)), view.happened)
    with interruptions() as stop, view:
        async with (
            reach_daemon(call, board.tell, own=options.own) as target,
            target.client() as client,
        ):
            demo = Demo(client, target, options, board, view, stop)
            try:
                await demo.run()
            finally:
                await demo.aclose()


@contextlib.contextmanager
def interruptions() -> Iterator[asyncio.Event]:
    """Turn SIGINT and SIGTERM into an event for as long as this is open."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def reach_daemon(call: Globals, tell: Tell, *, own: bool) -> AsyncIterator[Globals]:
    """Use the daemon at the address, or run one; yield where it is."""
    if not own and await _answers(call):
        tell("daemon", f"using the daemon at {call.address}", address=call.address, own=False)
        yield call
        return
    async with own_daemon() as (address, pid):
        why = "" if own else f" (nobody answers at {call.address})"
        tell(
            "daemon",
            f"running a daemon at {address}, pid {pid}{why}",
            address=address,
            own=True,
            pid=pid,
        )
        yield replace(call, address=address, credentials=NO_CREDENTIALS)


async def _answers(call: Globals) -> bool:
    try:
        async with call.client() as client:
            await client.list_agents_page(page_size=1, timeout=PROBE)
    except Unavailable:
        return False
    return True


class Demo:
    """A demo that runs.

    Args:
        client: an open client of the daemon.
        target: where the daemon is.
        options: what the demo is like.
        board: where everything is noted.
        view: where everything is shown.
        stop: set when somebody wants it to end.
    """

    def __init__(
        self,
        client: FleetClient,
        target: Globals,
        options: Options,
        board: Board,
        view: View,
        stop: asyncio.Event,
    ) -> None:
        self._client = client
        self._options = options
        self._board = board
        self._view = view
        self._stop = stop
        self._failure = ""
        run = secrets.token_hex(4)
        self._crews = [
            CrewProcess(
                Crew(
                    address=target.address,
                    namespace=target.namespace,
                    run=run,
                    agents=list(range(first, options.agents, options.processes)),
                ),
                self._said,
            )
            for first in range(options.processes)
        ]

    async def run(self) -> None:
        """Run until the time is up or somebody wants an end.

        Raises:
            CommandFailed: agents were refused, ended by themselves, or did not come in.
        """
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work, name=f"demo-{name}")
                for name, work in (
                    ("watch", self._watch()),
                    ("look", self._look()),
                    ("course", self._course()),
                )
            ]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.duration):
                    await self._stop.wait()
            for task in tasks:
                task.cancel()
        if self._failure:
            raise CommandFailed(self._failure)

    async def aclose(self) -> None:
        """Let everybody say goodbye, and sum up."""
        self._board.tell("stopping", "everybody says goodbye")
        self._view.redraw(self._board)
        await asyncio.gather(*(one.aclose() for one in self._crews))
        board = self._board
        done = sum(one.load.completed for a in board.agents.values() for one in a.instances)
        board.tell(
            "summary",
            f"{len(board.names)} agents, {done:,} tasks, {board.counts['transition']} changes of"
            f" status, {board.counts['killed']} kills, {board.counts['recovered']} recoveries",
            agents=len(board.names),
            tasks_completed=done,
            transitions=board.counts["transition"],
            kills=board.counts["killed"],
            recoveries=board.counts["recovered"],
        )
        self._view.redraw(board)

    def _said(self, crew: CrewProcess, line: dict[str, str]) -> None:
        """Take in what a process of agents says; one that cannot go on ends the demo."""
        if line["event"] == "ready":
            return
        names = self._names(crew)
        message = line.get("message", "")
        self._failure = self._failure or f"agents {names[0]} and others: {message}"
        self._board.tell(line["event"], f"pid {crew.pid}: {message}", pid=crew.pid, message=message)
        self._stop.set()

    async def _watch(self) -> None:
        async for event in self._client.watch_agents(tags=TAGS, include_instances=True):
            await self._board.apply(event)

    async def _look(self) -> None:
        """Fetch loads, which the watch does not carry, and draw; a look that fails is skipped."""
        while True:
            with contextlib.suppress(FleetError):
                self._board.refresh(
                    [
                        one
                        async for one in self._client.list_agents(
                            tags=TAGS, include_instances=True, page_size=1000
                        )
                    ]
                )
            self._view.redraw(self._board)
            await asyncio.sleep(REFRESH)

    async def _course(self) -> None:
        """Let everybody in, then make trouble until cancelled."""
        await asyncio.gather(*(self._start(crew) for crew in self._crews))
        if not await self._board.until(AgentStatus.ACTIVE, self._board.names, ARRIVAL):
            missing = len(self._board.names) - self._board.in_status(AgentStatus.ACTIVE)
            raise CommandFailed(
                f"{missing} agents are not ACTIVE after {ARRIVAL:g} s",
                hint="`fleetplane agents list --tag demo=fleetplane` shows what they are",
            )
        count = len(self._board.names)
        self._board.tell("all_active", f"all {count} agents are ACTIVE", agents=count)
        while self._options.chaos:
            await asyncio.sleep(QUIET)
            await self._kill_and_restart(_CHANCE.choice(self._crews))

    async def _start(self, crew: CrewProcess) -> None:
        await crew.start()
        names = self._names(crew)
        self._board.tell(
            "started", f"pid {crew.pid} runs {len(names)} agents", pid=crew.pid, agents=names
        )

    async def _kill_and_restart(self, crew: CrewProcess) -> None:
        board, names, pid = self._board, self._names(crew), crew.pid
        board.tell(
            "killed", f"kill -9 {pid}: {len(names)} agents fall silent", pid=pid, agents=names
        )
        await crew.kill()
        at = time.monotonic()
        if await board.until(AgentStatus.DEGRADED, names, NOTICE):
            seconds = time.monotonic() - at
            board.tell(
                "noticed",
                f"the plane calls them DEGRADED after {seconds:.1f} s",
                pid=pid,
                seconds=round(seconds, 3),
            )
        await asyncio.sleep(QUIET)
        at = time.monotonic()
        await crew.start()
        board.tell(
            "restarted", f"pid {crew.pid} runs them again", pid=crew.pid, agents=names, was=pid
        )
        if await board.until(AgentStatus.ACTIVE, names, ARRIVAL):
            seconds = time.monotonic() - at
            board.tell(
                "recovered",
                f"all of them are ACTIVE again after {seconds:.1f} s",
                pid=crew.pid,
                seconds=round(seconds, 3),
            )

    @staticmethod
    def _names(crew: CrewProcess) -> list[str]:
        return [agent_name(one) for one in crew.crew.agents]
