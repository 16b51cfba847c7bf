"""What the log hears of a configuration watch that is refused."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from fleetplane import FleetError, Scope
from fleetplane._details import StatusDetails
from fleetplane._exceptions import PermissionDenied
from fleetplane._subscriptions import ConfigSubscriptions

SCOPE = Scope(agent_id="a-1")
LOGGER = "fleetplane"


class Refusing:
    """Watches that are refused, one after the other, and then one that waits."""

    def __init__(self, refusals: Sequence[FleetError]) -> None:
        self._refusals = list(refusals)
        self.over = asyncio.Event()

    def open(self) -> Any:
        return _Watch(self)

    async def next(self) -> None:
        if self._refusals:
            raise self._refusals.pop(0)
        self.over.set()
        await asyncio.Event().wait()


class _Watch:
    scopes: tuple[Scope, ...] = ()

    def __init__(self, source: Refusing) -> None:
        self._source = source

    def change_scopes(self, add: Iterable[Scope], remove: Iterable[Scope]) -> None:
        """Watch whatever is asked for."""

    def __aiter__(self) -> "_Watch":
        return self

    async def __anext__(self) -> None:
        await self._source.next()

    async def aclose(self) -> None:
        """Nothing is open."""


class AtOnce:
    """No wait between attempts."""

    def __init__(self, *_bounds: float) -> None:
        pass

    def next(self) -> float:
        return 0.0


def refused(reason: str) -> FleetError:
    return PermissionDenied(f"no: {reason}", StatusDetails(reason=reason))


@pytest.mark.parametrize(
    ("reasons", "warnings"),
    [
        (["FOREIGN_AGENT"], 0),
        (["FOREIGN_AGENT"] * 3, 1),
        (["PERMISSION_DENIED"], 1),
        (["PERMISSION_DENIED"] * 3, 1),
        (["PERMISSION_DENIED", "FOREIGN_AGENT"], 1),
    ],
)
async def test_a_refusal_that_passes_by_itself_is_no_warning(
    reasons: list[str],
    warnings: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("fleetplane._subscriptions.Backoff", AtOnce)
    caplog.set_level(logging.WARNING, LOGGER)
    source = Refusing([refused(reason) for reason in reasons])
    subscriptions = ConfigSubscriptions(source.open)
    subscriptions.subscribe(SCOPE, lambda _config: None)
    async with asyncio.timeout(10):
        await source.over.wait()
    await subscriptions.aclose()
    assert len(caplog.records) == warnings
