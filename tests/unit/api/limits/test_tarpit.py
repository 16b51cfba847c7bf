"""Who is told his refusal later."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from controlplane.api.context import Call
from controlplane.api.limits.tarpit import (
    ANSWERED_PER_SECOND,
    HOLD_SECONDS,
    MAX_HELD,
    Tarpit,
)
from controlplane.api.methods import METHODS
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.refusals import CredentialMissing, PermissionDenied, RateLimited
from controlplane.domain.identity import ANONYMOUS, Caller
from tests.fakes.clock import FakeClock
from tests.fakes.limited_edge import somebody

GET = "/fleetplane.v1.RegistryService/GetAgent"
ANN, BEN = somebody("ann"), somebody("ben")
PATIENCE = round(ANSWERED_PER_SECOND * 10)
"""Ten seconds' worth."""


class Peer:
    """As much of grpc's context as is asked for."""

    def __init__(self, address: str) -> None:
        self.address = address

    def peer(self) -> str:
        return self.address


def call_of(caller: Caller, peer: str = "ipv4:192.0.2.1:1") -> Call:
    context: Any = Peer(peer)
    call = Call(METHODS[GET], context)
    call.caller = caller
    return call


def too_fast() -> RateLimited:
    return RateLimited("calls per second", limit=5, per="identity", retry_after_seconds=0.2)


@dataclass
class World:
    """A tarpit whose waits end when the test says so."""

    clock: FakeClock = field(default_factory=FakeClock)
    waits: list[float] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.tarpit = Tarpit(now=self.clock.monotonic, sleep=self._sleep, draw=lambda: 0.0)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self.over.wait()

    async def answered_at_once(self, caller: Caller, error: Exception, times: int) -> int:
        """Return how many of so many refusals were told without a wait; the others are dropped."""
        done = 0
        for _ in range(times):
            held = asyncio.ensure_future(self.tarpit.hold(call_of(caller), error))
            await asyncio.sleep(0)
            done += held.done()
            held.cancel()
            await asyncio.gather(held, return_exceptions=True)
        return done


async def test_whoever_asks_now_and_then_is_told_at_once():
    world = World()
    for _ in range(PATIENCE * 3):
        assert await world.answered_at_once(ANN, too_fast(), 1) == 1
        await world.clock.advance(1 / ANSWERED_PER_SECOND)
    assert world.waits == []


async def test_whoever_does_not_wait_is_told_later_and_nobody_else_is():
    world = World()
    assert await world.answered_at_once(ANN, too_fast(), PATIENCE + 20) == PATIENCE
    assert world.waits == [HOLD_SECONDS] * 20
    assert await world.answered_at_once(BEN, too_fast(), 1) == 1
    assert (world.tarpit.held, world.tarpit.held_before) == (0, 20)


async def test_those_without_a_credential_are_told_apart_by_their_network():
    world = World()
    assert await world.answered_at_once(ANONYMOUS, CredentialMissing(), PATIENCE + 1) == PATIENCE
    await world.tarpit.hold(call_of(ANONYMOUS, "ipv4:192.0.2.2:1"), CredentialMissing())


async def test_what_is_refused_for_other_reasons_does_not_wait():
    world = World()
    refusal = PermissionDenied("ann", Permission.READ, "default")
    assert await world.answered_at_once(ANN, refusal, PATIENCE + 20) == PATIENCE + 20


async def test_so_many_answers_are_held_and_no_more():
    world = World()
    await world.answered_at_once(ANN, too_fast(), PATIENCE)
    held = [
        asyncio.ensure_future(world.tarpit.hold(call_of(ANN), too_fast())) for _ in range(MAX_HELD)
    ]
    await asyncio.sleep(0)
    assert world.tarpit.held == MAX_HELD
    assert await world.answered_at_once(ANN, too_fast(), 5) == 5
    world.over.set()
    await asyncio.gather(*held)
    assert world.tarpit.held == 0


async def test_a_caller_that_gives_up_while_it_is_held_is_let_go():
    world = World()
    await world.answered_at_once(ANN, too_fast(), PATIENCE)
    held = asyncio.ensure_future(world.tarpit.hold(call_of(ANN), too_fast()))
    await asyncio.sleep(0)
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    assert world.tarpit.held == 0
