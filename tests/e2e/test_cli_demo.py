"""The command line against the real daemon: the demo."""

import contextlib
import os
import select
import signal
from typing import Any

import pytest

from tests.e2e.command_line import lines, started
from tests.fakes.daemon import Daemon, is_running

pytestmark = pytest.mark.xdist_group("command line")


@pytest.mark.fault
def test_a_demo_shows_a_death_and_a_recovery_and_leaves_nothing_running() -> None:
    with started("demo", "--own", "--agents", "6", "--duration", "45", "-o", "json") as process:
        seen: list[dict[str, Any]] = []
        interrupted = False
        for event in lines(process):
            seen.append(event)
            if event["event"] == "recovered" and not interrupted:
                interrupted = True
                process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    kinds = [one["event"] for one in seen]
    order = ["daemon", "started", "all_active", "killed", "noticed", "restarted", "recovered"]
    assert [kinds.index(one) for one in order] == sorted(kinds.index(one) for one in order)
    (killed,) = [one for one in seen if one["event"] == "killed"]
    moves = [(one["name"], one["before"], one["after"]) for one in seen if "before" in one]
    for name in killed["agents"]:
        assert (name, "ACTIVE", "DEGRADED") in moves
        assert (name, "DEGRADED", "ACTIVE") in moves
    assert kinds[-1] == "summary"
    assert seen[-1]["recoveries"] == 1
    pids = {one["pid"] for one in seen if "pid" in one}
    assert len(pids) >= 5
    assert not [pid for pid in pids if is_running(pid)]


@pytest.mark.fault
def test_agents_of_a_demo_do_not_outlive_it(daemon: Daemon, namespace: str) -> None:
    given = ("-a", daemon.address, "-n", namespace, "demo", "--agents", "4", "--processes", "2")
    with started(*given, "--no-chaos", "-o", "json") as process:
        pids = []
        for event in lines(process):
            if event["event"] == "started":
                pids.append(event["pid"])
            if event["event"] == "all_active":
                break
        process.kill()
        process.wait(timeout=10)
    _wait_for_ends(pids)


def _wait_for_ends(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                assert select.select([descriptor], [], [], 20)[0], f"{pid} still runs"
            finally:
                os.close(descriptor)
