"""Waiting for a fleet to run a configuration: woken by what is heard, not by looking often."""

import asyncio

import pytest

from controlplane.domain.agents import InstanceState
from controlplane.domain.configs import LayerKind, LayerScope
from controlplane.domain.errors import Draining
from controlplane.services import convergence
from controlplane.services.convergence import LOOK_SECONDS, MARGIN_SECONDS, Convergence
from controlplane.services.hub import acknowledgements_topic
from controlplane.services.ports import Collection
from tests.fakes.clock import FakeClock
from tests.fakes.registered import Replica, an_agent, an_instance

NAMESPACE = LayerScope(LayerKind.NAMESPACE)
REVISION = 7
APPLIED, FAILED = 2, 3


class World:
    """Two instances of one agent, and somebody who waits for both."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.replica = Replica()
        self.replica.write(an_agent(), an_instance("i"), an_instance("j"))
        self.draining = False
        self.convergence = Convergence(
            self.replica.read_model, self.clock, is_draining=lambda: self.draining
        )
        self.looks = 0
        look = convergence.look

        def counted(*args):
            self.looks += 1
            return look(*args)

        monkeypatch.setattr(convergence, "look", counted)

    def wait(self, seconds: float | None = 30.0) -> "asyncio.Task[convergence.Converged]":
        waiting = self.convergence.wait("default", NAMESPACE, REVISION, seconds=seconds)
        return asyncio.create_task(waiting)

    def acknowledge(self, name: str, *, revision: int = REVISION, status: int = APPLIED) -> None:
        live = self.replica.view.instances[name]
        live.config_running, live.config_status = revision, status
        self.replica.hub.notify((acknowledgements_topic("default"),))

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)


@pytest.fixture
async def world(monkeypatch):
    return World(monkeypatch)


async def test_a_fleet_that_runs_it_already_is_answered_at_once(world):
    world.acknowledge("i")
    world.acknowledge("j", revision=REVISION + 1)
    state = await world.wait()
    assert (state.converged, state.laggards) == (2, ())
    assert world.replica.hub.listener_count == 0


async def test_the_last_acknowledgement_ends_the_wait_without_any_timer(world):
    waiting = world.wait()
    await world.pass_time(0.1)
    world.acknowledge("i")
    await world.pass_time(0.1)
    assert not waiting.done()
    world.acknowledge("j")
    await world.pass_time(0)
    assert waiting.done()
    assert (await waiting).converged == 2


async def test_nobody_looks_while_nothing_is_heard(world):
    waiting = world.wait(seconds=60)
    await world.pass_time(LOOK_SECONDS * 3 + 0.5)
    assert world.looks == 4
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert world.replica.hub.listener_count == 0
    assert world.clock.sleepers == 0


async def test_a_thousand_acknowledgements_in_a_second_are_looked_at_a_few_times(world):
    waiting = world.wait()
    for number in range(1000):
        world.acknowledge("i", revision=number + REVISION)
        await world.pass_time(0.001)
    assert world.looks <= 21
    world.acknowledge("j")
    await world.pass_time(0.05)
    assert (await waiting).converged == 2


async def test_an_instance_that_leaves_is_not_waited_for(world):
    waiting = world.wait()
    await world.pass_time(1)
    world.acknowledge("i")
    await world.pass_time(1)
    world.replica.delete(Collection.INSTANCES, "j")
    await world.pass_time(0)
    assert (await waiting).converged == 1


async def test_an_instance_that_falls_silent_is_not_waited_for(world):
    waiting = world.wait()
    world.acknowledge("i")
    await world.pass_time(1)
    world.replica.write(an_instance("j", state=InstanceState.SILENT))
    await world.pass_time(0)
    assert (await waiting).converged == 1


async def test_a_lost_wake_up_costs_one_slow_look(world):
    waiting = world.wait()
    await world.pass_time(0.1)
    for live in world.replica.view.instances.values():
        live.config_running, live.config_status = REVISION, APPLIED
    await world.pass_time(LOOK_SECONDS)
    assert (await waiting).converged == 2


async def test_the_laggards_are_named_before_the_deadline_of_the_caller(world):
    waiting = world.wait(seconds=5)
    world.acknowledge("i")
    world.acknowledge("j", revision=REVISION - 1, status=FAILED)
    await world.pass_time(5 - MARGIN_SECONDS)
    state = await waiting
    assert state.converged == 1
    assert [live.instance.instance_id for live in state.laggards] == ["j"]


async def test_a_replica_that_shuts_down_sends_the_waiting_to_another(world):
    waiting = world.wait()
    await world.pass_time(0)
    world.draining = True
    await world.pass_time(LOOK_SECONDS)
    with pytest.raises(Draining):
        await waiting
