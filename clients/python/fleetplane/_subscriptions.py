"""One configuration watch for all agents of a process."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from fleetplane._calls import MAX_BACKOFF, Backoff
from fleetplane._config import EffectiveConfig, Scope
from fleetplane._exceptions import FleetError, Reason
from fleetplane._watches import ConfigWatch

_log: Final = logging.getLogger("fleetplane")

MAX_SCOPES: Final = 1000
"""Scopes the daemon accepts on one stream; a process with more agents opens another stream."""

GATHER: Final = 0.02
"""Seconds a new subscription waits for others, because the stream is opened again for it."""

Listener = Callable[[EffectiveConfig], None]
OpenWatch = Callable[[], ConfigWatch]


class _Stream:
    """Up to 1,000 scopes on one stream."""

    def __init__(self, open_watch: OpenWatch) -> None:
        self._open_watch = open_watch
        self._watch: ConfigWatch | None = None
        self._changed = asyncio.Event()
        self.listeners: dict[Scope, list[Listener]] = {}
        self._latest: dict[Scope, EffectiveConfig] = {}
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name="fleetplane-config-watch"
        )

    def subscribe(self, scope: Scope, listener: Listener) -> None:
        if scope in self.listeners:
            self.listeners[scope].append(listener)
            if (config := self._latest.get(scope)) is not None:
                listener(config)
        else:
            self.listeners[scope] = [listener]
            self._changed.set()

    def unsubscribe(self, scope: Scope, listener: Listener) -> None:
        listeners = self.listeners.get(scope, [])
        if listener in listeners:
            listeners.remove(listener)
        if scope in self.listeners and not listeners:
            del self.listeners[scope]
            self._latest.pop(scope, None)
            self._changed.set()

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        backoff = Backoff(1.0, MAX_BACKOFF)
        complaint = refusal = ""  # what was said last, and what was heard last
        watch = self._open_watch()
        try:
            while True:
                await self._gather()
                wanted = self.listeners.keys()
                held = set(watch.scopes)
                watch.change_scopes(add=wanted - held, remove=held - wanted)
                try:
                    await self._follow(watch)
                    continue
                except FleetError as error:
                    before, refusal = refusal, str(error)
                    # Of a plane that has lost its store nobody is known until he is registered
                    # again, which is about to happen: that is worth a line when it goes on.
                    passing = error.reason == Reason.FOREIGN_AGENT and refusal != before
                    if passing or refusal == complaint:
                        _log.debug("the configuration watch was refused: %s", error)
                    else:
                        _log.warning("the configuration watch was refused: %s", error)
                        complaint = refusal
                except Exception:  # noqa: BLE001  # a defect of ours must not freeze a whole process
                    _log.exception("the configuration watch failed")
                await watch.aclose()
                await asyncio.sleep(backoff.next())
                watch = self._open_watch()
                self._changed.set()
        finally:
            await watch.aclose()

    async def _gather(self) -> None:
        """Wait until there is something to watch, and a moment more."""
        await self._changed.wait()
        await asyncio.sleep(GATHER)
        self._changed.clear()
        while not self.listeners:
            await self._changed.wait()
            self._changed.clear()

    async def _follow(self, watch: ConfigWatch) -> None:
        """Deliver updates until the scopes change or the daemon refuses."""
        loop = asyncio.get_running_loop()
        pump = loop.create_task(self._pump(watch), name="fleetplane-config-pump")
        changed = loop.create_task(self._changed.wait(), name="fleetplane-config-scopes")
        try:
            await asyncio.wait((pump, changed), return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                await pump
        finally:
            pump.cancel()
            changed.cancel()
            await asyncio.gather(pump, changed, return_exceptions=True)

    async def _pump(self, watch: ConfigWatch) -> None:
        async for update in watch:
            if listeners := self.listeners.get(update.scope):
                self._latest[update.scope] = update.config
                for listener in tuple(listeners):
                    listener(update.config)


class ConfigSubscriptions:
    """Who wants to hear of which scope, on as few streams as the contract allows.

    Args:
        open_watch: opens a watch without scopes.
    """

    def __init__(self, open_watch: OpenWatch) -> None:
        self._open_watch = open_watch
        self._streams: list[_Stream] = []

    def subscribe(self, scope: Scope, listener: Listener) -> None:
        """Call `listener` with the present configuration of a scope, then with every newer one."""
        for stream in self._streams:
            if scope in stream.listeners:
                stream.subscribe(scope, listener)
                return
        for stream in self._streams:
            if len(stream.listeners) < MAX_SCOPES:
                stream.subscribe(scope, listener)
                return
        stream = _Stream(self._open_watch)
        self._streams.append(stream)
        stream.subscribe(scope, listener)

    def unsubscribe(self, scope: Scope, listener: Listener) -> None:
        """Stop calling `listener`."""
        for stream in self._streams:
            stream.unsubscribe(scope, listener)

    async def aclose(self) -> None:
        """End the streams and the tasks behind them; idempotent."""
        streams, self._streams = self._streams, []
        for stream in streams:
            await stream.aclose()
