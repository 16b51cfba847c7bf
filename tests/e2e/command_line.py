"""The command line as a process and as a call, for the tests that use it."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from typer.testing import Result

from controlplane.cli.demo_agent import Crew, Part
from tests.fakes.daemon import Daemon

Run = Callable[..., Result]


@contextlib.contextmanager
def started(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command line as a process, ended at the end if it still runs."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLEETPLANE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "controlplane", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


@contextlib.contextmanager
def crew(daemon: Daemon, namespace: str, *numbers: int, part: Part | None = None) -> Iterator[None]:
    """Agents that are alive: a process of the demo; with a part, instances that take tasks."""
    told = Crew(
        address=daemon.address, namespace=namespace, run="e2e", agents=list(numbers), part=part
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "controlplane.cli.demo_agent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(told) + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"event": "ready"}
        yield
    finally:
        process.communicate(timeout=20)  # closes its standard input: it says goodbye


def lines(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def until_active(run: Run, count: int) -> None:
    """Ask until so many agents are ACTIVE: an agent is in a moment before everybody hears of it."""
    deadline = time.monotonic() + 20
    while answer(run("agents", "discover", "-o", "json"))["total_size"] < count:
        assert time.monotonic() < deadline, "the agents are not ACTIVE"


def answer(result: Result) -> Any:
    return json.loads(result.stdout)
