"""One process of the demo: some agents of the SDK, doing simulated work.

`python -m controlplane.cli.demo_agent` reads one line of JSON from standard input (a `Crew`),
starts its agents, and writes a line of JSON when all of them are in (`{"event": "ready"}`), or one
that says why not (`{"event": "refused", "message": ...}`). It ends, saying goodbye, at SIGTERM,
SIGINT, or when its standard input ends: agents of a demo do not outlive it, however it ends.
"""

import asyncio
import json
import random
import signal
import sys
from typing import Final

import msgspec

from controlplane.cli.outcomes import REFUSED, UNREACHABLE
from fleetplane import Agent, FleetClient, FleetError, TaskContext, Unavailable

TAGS: Final = {"demo": "fleetplane"}
"""Carried by every agent of a demo."""

VERSION: Final = "1.0.0"
"""Version of every agent of a demo."""

ROLES: Final = (
    ("researcher", "Finds and reads sources.", ("research", "search"), ("web_search",)),
    ("writer", "Writes and shortens texts.", ("write", "summarize"), ()),
    ("translator", "Translates texts.", ("translate",), ()),
    ("coder", "Changes code and runs its tests.", ("code", "test"), ("shell", "git")),
    ("reviewer", "Reviews what others made.", ("review",), ("git",)),
)
"""Name, description, capabilities and tools of the agents, in turn."""

CONCURRENCY: Final = 3
"""Tasks an agent works on at the same time."""

TASK_KIND: Final = "research"
"""Kind of the tasks that the plane assigns in a demo of rollouts."""

TASK_SECONDS: Final = (0.02, 0.12)
"""How long such a task takes: short, so that seconds are enough to judge a version."""

LONGEST_TASK: Final = 1.5
"""Seconds of a simulated task at most."""

LONGEST_PAUSE: Final = 2.0
"""Seconds between two tasks at most."""

FAILURES: Final = 0.03
"""Share of simulated tasks that fail."""

_CHANCE: Final = random.SystemRandom()


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What the agents of a process are when they are all one agent that takes tasks."""

    name: str
    """Name of the agent."""
    version: str
    """Its version."""
    failures: float
    """Share of its tasks that fail, 0-1."""


class Crew(msgspec.Struct, frozen=True, kw_only=True):
    """What one process is told."""

    address: str
    """Where the daemon is."""
    namespace: str
    """Tenant."""
    run: str
    """Identity of the demo: a process that is started again takes over its instances."""
    agents: list[int]
    """Which agents it runs, by number."""
    part: Part | None = None
    """Given: the numbers are instances of one agent, which takes tasks of the plane. None: each is
    an agent of its own, with work of its own."""


class SimulatedFailure(Exception):
    """A task that did not work out; counted by the agent, read by nobody."""


def agent_name(number: int) -> str:
    """Return the name of an agent of a demo."""
    return f"demo-{ROLES[number % len(ROLES)][0]}-{number:03d}"


async def _run_one(client: FleetClient, crew: Crew, number: int, ready: asyncio.Semaphore) -> None:
    if crew.part is None:
        await _live(client, crew, number, ready)
    else:
        await _serve(client, crew, crew.part, number, ready)


async def _live(client: FleetClient, crew: Crew, number: int, ready: asyncio.Semaphore) -> None:
    _, description, capabilities, tools = ROLES[number % len(ROLES)]
    agent = Agent(
        agent_name(number),
        VERSION,
        client=client,
        instance_id=f"demo-{crew.run}-{number:03d}",
        description=description,
        owner="demo",
        capabilities=capabilities,
        tools=tools,
        max_concurrency=CONCURRENCY,
        tags=TAGS,
    )
    async with agent, asyncio.TaskGroup() as hands:
        ready.release()
        for _ in range(CONCURRENCY):
            hands.create_task(_work(agent))


async def _work(agent: Agent) -> None:
    """Do one task after the other, for as long as the agent may work."""
    while not agent.state.final:
        await asyncio.sleep(_CHANCE.uniform(0.0, LONGEST_PAUSE))
        if not agent.may_work:
            continue
        try:
            with agent.task():
                await asyncio.sleep(_CHANCE.uniform(0.0, LONGEST_TASK))
                _fail_sometimes()
        except SimulatedFailure:
            continue


async def _serve(
    client: FleetClient, crew: Crew, part: Part, number: int, ready: asyncio.Semaphore
) -> None:
    """Run one instance of an agent that takes tasks; say what became of every one of them."""
    agent = Agent(
        part.name,
        part.version,
        client=client,
        instance_id=f"{part.name}-{part.version}-{crew.run}-{number:02d}",
        owner="demo",
        capabilities=("research",),
        max_concurrency=CONCURRENCY,
        tags=TAGS,
    )

    @agent.task(TASK_KIND)
    async def research(context: TaskContext) -> str:
        await asyncio.sleep(_CHANCE.uniform(*TASK_SECONDS))
        failed = _CHANCE.random() < part.failures
        _say({"event": "ran", "task_id": context.task_id, "outcome": "failed" if failed else "ok"})
        if failed:
            raise SimulatedFailure("it knew nothing about that")
        return f"sources about {context.payload.decode()}"

    async with agent:
        ready.release()
        await agent.wait_ended()


def _fail_sometimes() -> None:
    if _CHANCE.random() < FAILURES:
        raise SimulatedFailure


async def run(crew: Crew, stop: asyncio.Event) -> None:
    """Run the agents of one process until told to stop.

    Raises:
        ExceptionGroup: the plane refused an agent.
    """
    ready = asyncio.Semaphore(0)
    async with (
        FleetClient(crew.address, namespace=crew.namespace) as client,
        asyncio.TaskGroup() as group,
    ):
        agents = [group.create_task(_run_one(client, crew, one, ready)) for one in crew.agents]
        announcing = group.create_task(_announce(ready, len(agents)))
        await stop.wait()
        for task in (*agents, announcing):
            task.cancel()


async def _announce(ready: asyncio.Semaphore, count: int) -> None:
    for _ in range(count):
        await ready.acquire()
    _say({"event": "ready"})


def _say(event: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def _main() -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    crew = msgspec.json.decode(await reader.readline(), type=Crew)
    orphaned = loop.create_task(_wait_for_end(reader, stop), name="demo-orphaned")
    try:
        await run(crew, stop)
    except ExceptionGroup as errors:
        return _refused(errors)
    finally:
        orphaned.cancel()
        await asyncio.gather(orphaned, return_exceptions=True)
    return 0


def _refused(errors: ExceptionGroup[Exception]) -> int:
    """Say why the plane refused an agent.

    Raises:
        ExceptionGroup: it is a defect.
    """
    refusals = errors.subgroup(FleetError)
    if refusals is None:
        raise errors
    error: Exception = refusals
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    _say({"event": "refused", "message": str(error)})
    return UNREACHABLE if isinstance(error, Unavailable) else REFUSED


async def _wait_for_end(reader: asyncio.StreamReader, stop: asyncio.Event) -> None:
    """Stop when the demo is gone: nobody holds the other end of standard input any more."""
    await reader.read()
    stop.set()


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
