"""A real agent in a process of its own: it takes tasks through the SDK, and can be killed.

`python -m tests.fakes.worker_process --target host:port --name n --version v ...` is the process;
`workers()` starts some and ends those that are left. What a handler does is in the payload:
`{"seconds": 0.2, "steps": 4}` works that long and reports a checkpoint after each step.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]

READY_SECONDS: Final = 30.0
"""How long a process may take to register and beat on a busy machine."""

ENDED_SECONDS: Final = 30.0


@dataclass
class Worker:
    """One agent process; what it said is in `events`."""

    process: asyncio.subprocess.Process
    instance_id: str
    events: list[dict[str, Any]] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]

    def send(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(ENDED_SECONDS):
            code = await self.process.wait()
            if self.reader is not None:
                await self.reader
        return code

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            event = json.loads(line)
            self.events.append(event)
            if event["event"] == "ready":
                self.ready.set()


class Workers:
    """Starts worker processes."""

    def __init__(self, target: str, namespace: str, log: Path) -> None:
        self.target = target
        self.namespace = namespace
        self.all: list[Worker] = []
        self._log = log

    async def start(
        self, name: str, version: str, *, instance_id: str, **options: str | float
    ) -> Worker:
        """Start one and wait until it beats; options are those of `main`, with underscores."""
        worker = await self.launch(name, version, instance_id=instance_id, **options)
        async with asyncio.timeout(READY_SECONDS):
            await worker.ready.wait()
        return worker

    async def launch(
        self, name: str, version: str, *, instance_id: str, **options: str | float
    ) -> Worker:
        """Start one."""
        arguments = {"target": self.target, "namespace": self.namespace, "name": name}
        arguments |= {"version": version, "instance-id": instance_id}
        arguments |= {key.replace("_", "-"): str(value) for key, value in options.items()}
        flat = [part for key, value in arguments.items() for part in (f"--{key}", value)]
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.fakes.worker_process",
                *flat,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        worker = Worker(process, instance_id)
        worker.reader = asyncio.create_task(worker.listen(), name=f"worker-{instance_id}")
        self.all.append(worker)
        return worker


@contextlib.asynccontextmanager
async def workers(target: str, namespace: str, log: Path) -> AsyncIterator[Workers]:
    """Start worker processes; whatever is left at the end is killed."""
    crew = Workers(target, namespace, log)
    try:
        yield crew
    finally:
        for worker in crew.all:
            worker.send(signal.SIGKILL)
        for worker in crew.all:
            await worker.ended()


def say(event: str, **fields: object) -> None:
    """Tell the test."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def fails(what: str, share: float) -> bool:
    """Whether an attempt is one of those that fail: the same for every run with the same names."""
    digest = hashlib.sha256(what.encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def arguments() -> argparse.Namespace:
    """Return the options of this process."""
    parser = argparse.ArgumentParser()
    for option in ("target", "namespace", "name", "version", "instance-id"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--agents", type=int, default=1, help="more than one: name-0, name-1, ...")
    parser.add_argument("--capability", default="work")
    parser.add_argument("--max-concurrency", type=int, default=4)
    parser.add_argument("--fail-share", type=float, default=0.0)
    parser.add_argument("--drain-seconds", type=float, default=20.0)
    parser.add_argument("--tag", default="")
    parser.add_argument("--activation", default="AUTO")
    return parser.parse_args()


async def main() -> None:
    """Take tasks until SIGTERM."""
    from fleetplane import FleetClient  # noqa: PLC0415 - only in the process of the agents

    options = arguments()
    async with (
        FleetClient(options.target, namespace=options.namespace) as client,
        asyncio.TaskGroup() as group,
    ):
        ready = [asyncio.Event() for _ in range(options.agents)]
        for number in range(options.agents):
            suffix = f"-{number}" if options.agents > 1 else ""
            group.create_task(serve(client, options, suffix, ready[number]))
        for one in ready:
            await one.wait()
        say("ready")
    say("stopped")


async def serve(
    client: Any, options: argparse.Namespace, suffix: str, ready: asyncio.Event
) -> None:
    """Be one agent."""
    from fleetplane import Activation, Agent, TaskContext  # noqa: PLC0415 - as above

    agent = Agent(
        options.name + suffix,
        options.version,
        client=client,
        instance_id=options.instance_id + suffix,
        capabilities=[options.capability],
        max_concurrency=options.max_concurrency,
        tags=dict([options.tag.split("=", 1)]) if options.tag else {},
        drain_timeout=options.drain_seconds,
        activation=Activation[options.activation],
        on_state=lambda state, detail: say("state", state=str(state), detail=detail),
    )

    @agent.task
    async def work(task: TaskContext) -> bytes:
        order = json.loads(task.payload or b"{}")
        done = int(task.checkpoint or b"0")
        say("began", task_id=task.task_id, attempt=task.attempt, checkpoint=done)
        steps = int(order.get("steps", 1))
        try:
            while done < steps:
                await asyncio.sleep(float(order.get("seconds", 0.0)) / steps)
                done += 1
                if steps > 1:
                    await task.progress(done / steps, checkpoint=str(done).encode())
        except asyncio.CancelledError:
            say("called off", task_id=task.task_id)
            raise
        if fails(f"{task.task_id}/{options.version}/{task.attempt}", options.fail_share):
            raise RuntimeError("this version is bad at it")
        say("finished", task_id=task.task_id)
        return f"{options.version}:{done}".encode()

    async with agent:
        ready.set()
        await agent.run_until_stopped()


if __name__ == "__main__":
    asyncio.run(main())
