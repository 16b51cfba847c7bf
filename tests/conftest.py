"""Fixtures that several suites share."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from fleetplane import FleetClient
from tests.fakes.daemon import Daemon, running_daemon


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """A daemon with the default settings and an embedded store, one per test process.

    Tests keep apart by their namespaces, and leave it running.
    """
    with running_daemon(grace_seconds=2.0) as running:
        yield running


@pytest.fixture
def namespace() -> str:
    """A namespace that nobody else uses."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def client(daemon: Daemon, namespace: str) -> AsyncIterator[FleetClient]:
    """A client of the shared daemon in a namespace of its own."""
    async with FleetClient(daemon.address, namespace=namespace) as opened:
        yield opened
