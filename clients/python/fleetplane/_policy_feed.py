"""Keeps a copy of what decides for the agents of this process, on one watch."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from fleetplane._calls import MAX_BACKOFF, Backoff, Caller
from fleetplane._config import NOWHERE, Position
from fleetplane._exceptions import FleetError
from fleetplane._policy_copy import CopyDiverged, HeldAgent, PolicyCopy
from fleetplane._policy_watch import PolicyNews, PolicyWatch
from fleetplane.v1 import policy_service_pb2 as pb

_log: Final = logging.getLogger("fleetplane")

MAX_AGENTS: Final = 1000
"""Agents the daemon accepts on one stream."""

GATHER: Final = 0.02
"""Seconds a new agent waits for others, because the stream is opened again for it."""

MAX_SILENCE: Final = 45.0
"""Seconds without a message after which the stream is dead: three bookmarks, by contract."""

COMPILED_AT_ONCE: Final = 200
"""Policies compiled between two turns of the event loop, some 20 ms; more go to a thread."""

Open = Callable[[list[pb.WatchedPolicyAgent], Position], Any]
"""Opens a stream for some agents, given what is held about each and how far."""


class PolicyFeed:
    """Up to 1,000 agents on one stream; decision points read it.

    What was last known stays, whatever happens to the stream.

    Args:
        open_at: opens a stream.
        caller: of the connection.
        max_silence: seconds without a message after which a stream counts as dead.
    """

    def __init__(
        self, open_at: Open, *, caller: Caller | None = None, max_silence: float = MAX_SILENCE
    ) -> None:
        self._open_at = open_at
        self._caller = caller
        self._max_silence = max_silence
        self._users: dict[str, int] = {}
        self._held = PolicyCopy()
        self._changed = asyncio.Event()
        self._moved = asyncio.Event()
        self._watch = self._new_watch()
        self._clock_set = -math.inf
        self.agents: Mapping[str, HeldAgent | None] = self._held.agents
        """What decides, by agent; None: there is no such agent. Missing: not heard yet."""
        self.position = NOWHERE
        """Everything up to here is in the copy."""
        self.confirmed_at = -math.inf
        """When the copy was last known to be the newest, in monotonic seconds."""
        self.offset_ms = time.time() * 1000 - time.monotonic() * 1000
        """The daemon's clock less this process's monotonic one, in milliseconds."""
        self.refusal: FleetError | None = None
        """Why the daemon refuses the watch; None since it does not."""
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name="fleetplane-policy-watch"
        )

    @property
    def age(self) -> float:
        """Seconds since the copy was last known to be the newest; infinite before the first."""
        return time.monotonic() - self.confirmed_at

    @property
    def connected(self) -> bool:
        """Whether the stream is up."""
        return self._watch.connected

    @property
    def room(self) -> int:
        """How many agents fit in yet."""
        return MAX_AGENTS - len(self._users)

    def add(self, agent_id: str) -> None:
        """Follow one more agent; as often as it is removed again."""
        self._users[agent_id] = self._users.get(agent_id, 0) + 1
        if self._users[agent_id] == 1:
            self._changed.set()

    def remove(self, agent_id: str) -> None:
        """Follow an agent no longer, once nobody wants it."""
        left = self._users.get(agent_id, 0) - 1
        if left > 0:
            self._users[agent_id] = left
        elif left == 0:
            del self._users[agent_id]
            self._changed.set()

    async def until(self, holds: Callable[[], bool], timeout: float | None) -> None:
        """Wait until something holds of what is heard.

        Raises:
            TimeoutError: it did not in so many seconds.
            FleetError: the daemon refuses the watch.
        """
        async with asyncio.timeout(timeout):
            while not holds():
                if self.refusal is not None:
                    raise self.refusal
                await self._moved.wait()

    async def aclose(self) -> None:
        """End the stream; what is held stays readable. Idempotent."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _new_watch(self) -> PolicyWatch:
        return PolicyWatch(self._open, max_silence=self._max_silence, caller=self._caller)

    def _open(self) -> Any:
        return self._open_at(self._held.wanted(self._users), self.position)

    async def _run(self) -> None:
        backoff = Backoff(1.0, MAX_BACKOFF)
        complaint = ""  # the last one: once is enough
        try:
            while True:
                if not self._users:
                    self._watch.start_over()  # nobody reads it
                await self._gather()
                self._held = self._held.without(self._held.agents.keys() - self._users.keys())
                self._watch.start_over()
                try:
                    await self._follow(self._watch)
                    continue
                except FleetError as error:
                    level = logging.DEBUG if str(error) == complaint else logging.WARNING
                    _log.log(level, "the policy watch was refused: %s", error)
                    complaint = str(error)
                    self.refusal = error
                    self._tell()
                except CopyDiverged as error:
                    _log.warning("the policies are asked for anew: %s", error)
                    self._held = PolicyCopy()
                except Exception:  # noqa: BLE001  # a defect of ours must not freeze what decides
                    _log.exception("the policy watch failed")
                    self._held = PolicyCopy()
                await self._watch.aclose()
                await asyncio.sleep(backoff.next())
                self._watch = self._new_watch()
                self._changed.set()
        finally:
            await self._watch.aclose()

    async def _gather(self) -> None:
        """Wait until there is something to watch, and a moment more."""
        await self._changed.wait()
        await asyncio.sleep(GATHER)
        self._changed.clear()
        while not self._users:
            await self._changed.wait()
            self._changed.clear()

    async def _follow(self, watch: PolicyWatch) -> None:
        """Apply what arrives until the agents change or the daemon refuses."""
        loop = asyncio.get_running_loop()
        pump = loop.create_task(self._pump(watch), name="fleetplane-policy-pump")
        changed = loop.create_task(self._changed.wait(), name="fleetplane-policy-agents")
        try:
            await asyncio.wait((pump, changed), return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                await pump
        finally:
            pump.cancel()
            changed.cancel()
            await asyncio.gather(pump, changed, return_exceptions=True)

    async def _pump(self, watch: PolicyWatch) -> None:
        async for news in watch:
            if news.messages:
                await self._apply(news)
            self.refusal = None
            self.position = news.position
            self._learn_clock(news)
            self.confirmed_at = time.monotonic() - news.age
            self._tell()

    async def _apply(self, news: PolicyNews) -> None:
        """Swap in the next copy; a decision sees the old one or the new one, never a mixture."""
        compiled = sum(len(part.policies) for one in news.messages for part in one.sets)
        if compiled > COMPILED_AT_ONCE:
            held = await asyncio.to_thread(self._held.after, news.messages)
        else:
            held = self._held.after(news.messages)
        self._held = held
        self.agents = held.agents

    def _learn_clock(self, news: PolicyNews) -> None:
        """Take over the daemon's clock; the least delayed message of the last minutes counts."""
        now = time.monotonic()
        offset = news.now_ms - now * 1000
        if offset > self.offset_ms or now - self._clock_set > _CLOCK_SECONDS:
            self.offset_ms = offset
            self._clock_set = now

    def _tell(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


_CLOCK_SECONDS: Final = 60.0
"""How long a reading of the daemon's clock stands against later ones; clocks drift apart by less
than 6 ms in that time."""
