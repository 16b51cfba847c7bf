"""The queue in front of a server, which only a call that stands in it can see."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from controlplane.api.concerns import standard_concerns
from controlplane.api.drain import Drain
from controlplane.api.limits.front_door import PATIENCE, FrontDoor
from controlplane.api.pipeline import Pipeline
from controlplane.api.server import ServerOptions, bind, create_server
from controlplane.services.store_clock import StoreClock
from controlplane.tasks.lag_meter import LagMeter
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import registry_service_pb2_grpc as pb_grpc

WORK_SECONDS = 0.02
CALLS = 60


class Slow(pb_grpc.RegistryServiceServicer):
    """Keeps the loop busy for a moment with each call, and never for long."""

    async def GetAgent(self, _request, _context):  # noqa: N802
        until = time.monotonic() + WORK_SECONDS
        while time.monotonic() < until:
            pass
        return pb.GetAgentResponse()


@pytest.fixture
async def served():
    door = FrontDoor(overload_lag_seconds=0.5)
    options = ServerOptions(address="127.0.0.1:0")
    server, _ = create_server(
        options,
        Pipeline(standard_concerns(Drain())),
        lambda it: pb_grpc.add_RegistryServiceServicer_to_server(Slow(), it),  # type: ignore[abstract]  # the others are not there
    )
    address = bind(server, options)
    async with door.opened(server):
        await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            yield door, pb_grpc.RegistryServiceStub(channel)
        await server.stop(0)


async def test_a_queue_of_calls_is_lag_although_every_task_gets_its_turn(served):
    door, stub = served
    both = LagMeter(StoreClock(), warn_seconds=60, knock=door.knock)
    loop_only = LagMeter(StoreClock(), warn_seconds=60)
    meters = [asyncio.create_task(meter.run()) for meter in (both, loop_only)]
    seen: list[tuple[float, float]] = []

    async def ask() -> None:
        await stub.GetAgent(pb.GetAgentRequest(), timeout=30)
        seen.append((both.seconds, loop_only.seconds))

    async def keep_asking() -> None:
        for _ in range(3):
            await ask()

    await asyncio.gather(*(keep_asking() for _ in range(CALLS)))
    for meter in meters:
        meter.cancel()
        with suppress(asyncio.CancelledError):
            await meter
    assert max(lag for lag, _ in seen) > CALLS * WORK_SECONDS / 4
    assert max(lag for _, lag in seen) < max(lag for lag, _ in seen) / 2


async def test_knocking_is_quick_when_nobody_waits_and_bounded_when_many_do(served):
    door, stub = served
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await door.knock()
    assert loop.time() - begun < 1
    impatient = FrontDoor(overload_lag_seconds=0.1 / PATIENCE)
    impatient._stub = door._stub
    crowd = [stub.GetAgent(pb.GetAgentRequest(), timeout=30) for _ in range(CALLS)]
    await asyncio.sleep(0)
    begun = loop.time()
    await impatient.knock()
    assert loop.time() - begun < CALLS * WORK_SECONDS
    await asyncio.gather(*crowd)


async def test_a_closed_door_answers_at_once():
    await FrontDoor(overload_lag_seconds=0.5).knock()


async def test_without_a_place_for_its_socket_the_door_stays_closed(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    door = FrontDoor(overload_lag_seconds=0.5)
    server = grpc.aio.server()
    async with door.opened(server):
        await door.knock()
    assert "no directory for the front door" in caplog.text


@pytest.fixture
def place(monkeypatch) -> Iterator[Path]:
    """Where sockets may be, with a path that is short enough for them."""
    with tempfile.TemporaryDirectory(prefix="fp-", dir="/tmp") as directory:
        monkeypatch.setattr("tempfile.tempdir", directory)
        yield Path(directory)


def entries(place: Path) -> list[int]:
    return [entry.stat().st_mode & 0o777 for entry in place.iterdir()]


async def test_nobody_else_can_enter_and_nothing_stays_behind(place):
    async with FrontDoor(overload_lag_seconds=0.5).opened(grpc.aio.server()):
        assert entries(place) == [0o700]
    assert entries(place) == []
