"""Everybody comes back at once: the plane lets them in, and nobody pays for it."""

import asyncio
import time
from collections import Counter
from typing import Any, Final

import pytest

from fleetplane import AgentStatus, FleetClient
from tests.fakes.beating_crowd import beating_crowd
from tests.fakes.daemon import running_daemon
from tests.fakes.eventually import eventually
from tests.fault.load import Statuses, crew

pytestmark = [pytest.mark.fault, pytest.mark.xdist_group("storm"), pytest.mark.timeout(120)]

INTERVAL_SECONDS = 2.0
DEGRADED_SECONDS = 8.0
PULSE: Final[dict[str, Any]] = {
    "heartbeat_interval_seconds": INTERVAL_SECONDS,
    "degraded_after_seconds": DEGRADED_SECONDS,
    "grace_seconds": 1.0,
}

STREAMS = 1_000
INSTANCES = 10
CREW = 20

BACK_SECONDS = 15.0
"""For all streams to be answered after the daemon serves again; about a second when idle."""


async def test_all_streams_come_back_after_a_kill_and_nobody_is_called_silent() -> None:
    with running_daemon(**PULSE) as daemon:
        async with (
            FleetClient(daemon.address) as client,
            Statuses(client).watching() as statuses,
            crew(client, CREW) as agents,
            beating_crowd(daemon.address, "crowd", streams=STREAMS, instances=INSTANCES) as crowd,
        ):
            everybody = STREAMS + CREW
            await eventually("everybody is ACTIVE", lambda: statuses.all_active(everybody))

            killed = time.monotonic()
            daemon.kill()
            await daemon.astart()
            serving = time.monotonic()
            await crowd.mark()
            await crowd.all_answered()
            back = time.monotonic()
            await eventually("the crew works", lambda: all(agent.may_work for agent in agents))
            storm = await crowd.mark()

            # Who is silent now would be judged once the grace after an outage has passed.
            await asyncio.sleep(DEGRADED_SECONDS + INTERVAL_SECONDS)
            calm = await crowd.report()
            print(  # noqa: T201 - a measurement
                f"{STREAMS:,} streams of {INSTANCES}: serving {serving - killed:.2f} s after the "
                f"kill, all answered {back - serving:.2f} s later, longest wait for an answer "
                f"{storm.longest_wait:.2f} s, afterwards {calm.longest_wait:.3f} s"
            )
            assert back - serving < BACK_SECONDS
            assert (storm.refused, calm.refused, calm.broken) == ({}, {}, 0)
            assert calm.longest_wait < INTERVAL_SECONDS
            assert calm.longest_silence < 2 * INTERVAL_SECONDS
            statuses.assert_nobody_was_ever_silent()
            found = Counter([AgentStatus(agent.status) async for agent in client.list_agents()])
            assert found == {AgentStatus.ACTIVE: everybody}


async def test_a_storm_of_new_streams_does_not_delay_the_beats_of_others() -> None:
    with running_daemon(**PULSE) as daemon:
        async with (
            FleetClient(daemon.address) as client,
            Statuses(client).watching() as statuses,
            beating_crowd(daemon.address, "settled", streams=100, instances=INSTANCES) as settled,
        ):
            await settled.mark()
            began = time.monotonic()
            async with beating_crowd(daemon.address, "new", streams=STREAMS, instances=5) as new:
                arrived = time.monotonic() - began
                settled_report, new_report = await settled.report(), await new.report()
            print(  # noqa: T201 - a measurement
                f"{STREAMS:,} new streams registered and beating after {arrived:.2f} s, longest "
                f"wait for an answer {new_report.longest_wait:.2f} s; meanwhile the others waited "
                f"{settled_report.longest_wait:.3f} s at most"
            )
            assert settled_report.longest_wait < INTERVAL_SECONDS / 2
            assert settled_report.longest_silence < 2 * INTERVAL_SECONDS
            assert (settled_report.refused, settled_report.broken) == ({}, 0)
            assert new_report.refused == {}
            statuses.assert_nobody_was_ever_silent()
