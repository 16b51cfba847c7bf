"""A feed of policies without a stream: it holds what the test gives it."""

import time
from collections.abc import Callable, Mapping

from fleetplane._config import NOWHERE
from fleetplane._policy_copy import HeldAgent, PolicyCopy
from tests.fakes.clock import FakeClock


class HeldFeed:
    """What a decision point reads of a feed. `clock` is the daemon's."""

    def __init__(self, copy: PolicyCopy, clock: FakeClock | None = None) -> None:
        self.agents: Mapping[str, HeldAgent | None] = copy.agents
        self.position = NOWHERE
        self.connected = True
        self.users: list[str] = []
        self.confirmed_at = time.monotonic()
        self.offset_ms = (clock or FakeClock()).store_ms() - time.monotonic() * 1000

    @property
    def age(self) -> float:
        return time.monotonic() - self.confirmed_at

    def grow_old(self, seconds: float) -> None:
        """Have the copy last confirmed so many seconds ago."""
        self.confirmed_at = time.monotonic() - seconds

    def add(self, agent_id: str) -> None:
        self.users.append(agent_id)

    def remove(self, agent_id: str) -> None:
        self.users.remove(agent_id)

    async def until(self, holds: Callable[[], bool], timeout: float | None) -> None:  # noqa: ARG002 - the contract
        if not holds():
            raise TimeoutError
