"""Watches that survive the loss of their stream: they go on where they were.

A watch is an asynchronous iterator that ends only when it is closed or when the daemon refuses it
for a reason that time does not cure. A broken, silent or ended stream is opened again with the last
position, after a random wait that grows while attempts fail. What was delivered before is not
delivered again, and nothing in between is lost.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from fleetplane._calls import MAX_BACKOFF, MIN_BACKOFF, Backoff, Caller, StreamReader, is_final
from fleetplane._config import NOWHERE, EffectiveConfig, Position, Scope
from fleetplane._exceptions import FleetError
from fleetplane._values import to_seconds
from fleetplane.v1 import agent_pb2, config_service_pb2, registry_service_pb2, watch_pb2

Event = TypeVar("Event")
Message = TypeVar("Message")

MAX_SILENCE: Final = 50.0
"""Seconds without a message after which a stream counts as dead: three bookmarks, which the daemon
sends every 15 s, and some. Finds connections that a proxy keeps open on our side only."""


@dataclass(frozen=True, slots=True)
class AgentsSnapshot:
    """All agents that match: replaces everything held before."""

    agents: tuple[agent_pb2.Agent, ...]
    """Ordered by agent_id."""
    position: Position
    """What it reflects."""


@dataclass(frozen=True, slots=True)
class AgentsChanged:
    """What changed since the last event."""

    agents: tuple[agent_pb2.Agent, ...]
    """Agents that are new or changed, in their newest state."""
    removed_agent_ids: tuple[str, ...]
    """Agents that are gone or no longer match."""
    position: Position
    """Everything up to here was delivered."""


@dataclass(frozen=True, slots=True)
class AgentsUnchanged:
    """Nothing happened for a while, and this is how far the daemon has looked."""

    position: Position
    """Everything up to here was delivered."""


AgentsEvent = AgentsSnapshot | AgentsChanged | AgentsUnchanged


@dataclass(frozen=True, slots=True)
class ConfigUpdate:
    """New configuration of one scope."""

    scope: Scope
    """Whose."""
    config: EffectiveConfig
    """Its newest configuration."""
    position: Position
    """Everything up to here was delivered for this scope."""


class Watch(Generic[Message, Event]):
    """What all watches share: opening, reading, coming back.

    Args:
        max_silence: seconds without a message after which a stream counts as dead.
        caller: of the connection; has newer credentials looked for when the daemon refuses those in
            use, and the watch go on with them.
    """

    def __init__(self, max_silence: float, caller: Caller | None = None) -> None:
        self._max_silence = max_silence
        self._caller = caller
        self._exchanges = 0
        self._backoff = Backoff(MIN_BACKOFF, MAX_BACKOFF)
        self._reader: StreamReader | None = None
        self._ready: deque[Event] = deque()
        self._closed = False
        self._wait: float | None = None
        self._opened_at = 0.0
        self._connected = False

    def _open(self) -> Any:
        raise NotImplementedError

    def _receive(self, message: Message) -> watch_pb2.GoAway | None:
        """Put what a message says into `_ready`; return its farewell, if it is one."""
        raise NotImplementedError

    def _deliver(self, event: Event) -> None:
        """Note that an event is about to be handed out."""
        raise NotImplementedError

    @property
    def connected(self) -> bool:
        """Whether the stream is up: the daemon has been heard on it."""
        return self._connected

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        Cancelling it loses nothing: the next call opens the stream where this one was.

        Raises:
            FleetError: the daemon refuses the watch itself, for instance a malformed filter.
            StopAsyncIteration: the watch was closed.
        """
        while not self._ready:
            if self._closed:
                raise StopAsyncIteration
            await self._pull()
        event = self._ready.popleft()
        self._deliver(event)
        return event

    async def _pull(self) -> None:
        """Read one message, opening the stream first if there is none."""
        if self._reader is None:
            if self._wait is not None:
                await asyncio.sleep(self._wait)
                self._wait = None
            if self._caller is not None:
                self._exchanges = self._caller.exchanges
            self._reader = StreamReader(self._open(), self._max_silence)
            self._opened_at = time.monotonic()
        try:
            message = await self._reader.read()
        except FleetError as error:
            self._drop()
            await self._broken(error)
            return
        except asyncio.CancelledError:
            self._drop()
            raise
        if message is None:
            self._drop()
            if self._wait is None:
                self._wait = self._backoff.next()
            return
        self._connected = True
        farewell = self._receive(message)
        if farewell is None:
            self._backoff.reset(after=time.monotonic() - self._opened_at)
        else:
            self._wait = self._backoff.next(to_seconds(farewell.retry_after))

    async def _broken(self, error: FleetError) -> None:
        """Plan how to go on after the stream broke; raise if that is pointless."""
        if self._caller is not None and await self._caller.renewed(error, self._exchanges):
            return
        if is_final(error):
            self._closed = True
            raise error
        self._wait = self._backoff.next(error.retry_after)

    def _drop(self) -> None:
        self._connected = False
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    async def aclose(self) -> None:
        """End the watch; idempotent. Cancel the task that waits for its next event first."""
        self._closed = True
        self._ready.clear()
        self._drop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


OpenAgents = Callable[[watch_pb2.WatchPosition | None], Any]
OpenConfigs = Callable[[list[config_service_pb2.WatchedScope]], Any]


class AgentWatch(Watch[registry_service_pb2.WatchAgentsResponse, AgentsEvent]):
    """The agents that match a filter: a snapshot first, then every change, for as long as you like.

    Another snapshot comes when the daemon cannot continue from where this watch was.
    """

    def __init__(
        self,
        open_at: OpenAgents,
        *,
        held: Position = NOWHERE,
        max_silence: float = MAX_SILENCE,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(max_silence, caller)
        self._open_at = open_at
        self._held = held
        self._parts: list[agent_pb2.Agent] = []

    @property
    def position(self) -> Position:
        """Everything up to here was delivered."""
        return self._held

    def _open(self) -> Any:
        self._parts = []
        return self._open_at(self._held.to_message())

    def _receive(
        self, message: registry_service_pb2.WatchAgentsResponse
    ) -> watch_pb2.GoAway | None:
        position = Position.from_message(message.position)
        match message.WhichOneof("event"):
            case "snapshot":
                self._parts.extend(message.snapshot.agents)
                if message.snapshot.complete:
                    self._ready.append(AgentsSnapshot(tuple(self._parts), position))
                    self._parts = []
            case "delta" if not self._held.covers(position):
                delta = message.delta
                self._ready.append(
                    AgentsChanged(tuple(delta.agents), tuple(delta.removed_agent_ids), position)
                )
            case "bookmark":
                self._ready.append(AgentsUnchanged(position))
            case "go_away":
                return message.go_away
            case _:
                pass  # an event this SDK is too old to know, or one that was delivered before
        return None

    def _deliver(self, event: AgentsEvent) -> None:
        self._held = event.position


class ConfigWatch(Watch[config_service_pb2.WatchConfigResponse, ConfigUpdate]):
    """The configuration of up to 1,000 scopes on one stream; one update per scope that changed."""

    def __init__(
        self,
        open_at: OpenConfigs,
        scopes: Iterable[Scope],
        *,
        max_silence: float = MAX_SILENCE,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(max_silence, caller)
        self._open_at = open_at
        self._held = dict.fromkeys(scopes, NOWHERE)
        self._synced = False

    @property
    def synced(self) -> bool:
        """Whether every scope has been brought up to date on the present stream."""
        return self._synced and self._connected and not self._ready

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """What is watched."""
        return tuple(self._held)

    def position(self, scope: Scope) -> Position:
        """Return up to where everything was delivered for a scope.

        Raises:
            KeyError: the scope is not watched.
        """
        return self._held[scope]

    def change_scopes(self, *, add: Iterable[Scope] = (), remove: Iterable[Scope] = ()) -> None:
        """Watch more or fewer scopes; the others go on where they are.

        Takes effect when the stream is opened next: cancel the task that waits for an event, and
        iterate again.
        """
        for scope in remove:
            self._held.pop(scope, None)
        for scope in add:
            self._held.setdefault(scope, NOWHERE)
        self._drop()

    def _open(self) -> Any:
        self._synced = False
        return self._open_at(
            [
                config_service_pb2.WatchedScope(scope=scope.to_message(), held=held.to_message())
                for scope, held in self._held.items()
            ]
        )

    def _receive(self, message: config_service_pb2.WatchConfigResponse) -> watch_pb2.GoAway | None:
        if message.HasField("go_away"):
            return message.go_away
        position = Position.from_message(message.position)
        if message.scopes:
            config = EffectiveConfig.from_message(message.config)
            for one in message.scopes:
                scope = Scope.from_message(one)
                held = self._held.get(scope)
                if held is not None and not held.covers(position):
                    self._ready.append(ConfigUpdate(scope, config, position))
        elif message.bookmark:
            self._held.update((scope, position) for scope in self._held)
        if message.synced:
            self._synced = True
        return None

    def _deliver(self, event: ConfigUpdate) -> None:
        if event.scope in self._held:
            self._held[event.scope] = event.position
