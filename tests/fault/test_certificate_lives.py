"""Certificates live for seconds here, agents for many of their lives, and no beat fails."""

import asyncio
import contextlib
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest

from fleetplane import Agent, FleetClient
from fleetplane.v1 import agent_pb2
from tests.fakes.eventually import eventually
from tests.fakes.secure_daemon import SecureDaemon, secure_daemon

pytestmark = [pytest.mark.fault, pytest.mark.xdist_group("lives"), pytest.mark.timeout(240)]

HERE: Final = "acme"
LIFE_SECONDS: Final = 4.0
LIVES: Final = 12
"""How many certificates end meanwhile: twelve hours' worth of the default life."""
AGENTS: Final = 6
BEAT_SECONDS: Final = 0.3
SILENCE_SECONDS: Final = 2.0
"""Before an agent counts as degraded: seven beats, less than one life."""


@contextlib.asynccontextmanager
async def enrolled_agents(secure: SecureDaemon, directory: Path) -> AsyncIterator[list[Agent]]:
    _, secret = secure.join_token(HERE, max_uses=AGENTS)
    (directory / "ca.pem").write_bytes(secure.roots)
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Agent(
                    f"worker-{i}",
                    "1.0.0",
                    target=secure.mtls_address,
                    enroll_target=secure.address,
                    join_token=secret,
                    ca=directory / "ca.pem",
                    state_dir=directory / f"state-{i}",
                )
            )
            for i in range(AGENTS)
        ]


async def test_agents_live_through_many_certificates_and_a_new_root_without_a_failed_beat(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, logger="fleetplane")
    with (
        tempfile.TemporaryDirectory() as directory,
        secure_daemon(
            certificate_seconds=LIFE_SECONDS,
            heartbeat_interval_seconds=BEAT_SECONDS,
            degraded_after_seconds=SILENCE_SECONDS,
            lost_after_seconds=60.0,
        ) as secure,
    ):
        secure.make_namespace(HERE)
        async with (
            enrolled_agents(secure, Path(directory)) as agents,
            FleetClient(
                secure.address, namespace=HERE, token=secure.admin_token, ca=secure.roots
            ) as admin,
        ):
            until = time.monotonic() + LIVES * LIFE_SECONDS
            rotate_at, round_ = time.monotonic() + LIVES * LIFE_SECONDS / 3, 0
            roots = secure.roots
            while time.monotonic() < until:
                round_ += 1
                await admin.update_config({"max_tokens": 100 + round_})
                await eventually("all have the configuration", _all_have(agents, 100 + round_))
                assert all(agent.may_work for agent in agents)
                listed = [agent async for agent in admin.list_agents()]
                assert {agent.status for agent in listed} == {agent_pb2.AGENT_STATUS_ACTIVE}
                if rotate_at and time.monotonic() > rotate_at:
                    rotate_at = 0.0
                    await asyncio.to_thread(_rotate, secure)
                await asyncio.sleep(0.2)  # a pace, not a wait
            assert secure.roots != roots, "the authority was exchanged"
            assert [agent.expired for agent in agents] == [False] * AGENTS
            assert not _complaints(caplog)
            assert "agent.degraded" not in secure.daemon.log


def _all_have(agents: list[Agent], max_tokens: int) -> Callable[[], bool]:
    return lambda: all(agent.config.max_tokens == max_tokens for agent in agents)


def _rotate(secure: SecureDaemon) -> None:
    subprocess.run(
        [sys.executable, "-m", "controlplane", "ca", "rotate", "--ca-dir", str(secure.ca_dir)],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )


def _complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name.startswith("fleetplane")
    ]
