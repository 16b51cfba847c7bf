"""How a new configuration becomes the running one, and what the plane is told about it."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from fleetplane._config import EffectiveConfig
from fleetplane._enums import ConfigStatus
from fleetplane.v1 import agent_pb2

_log: Final = logging.getLogger("fleetplane")

MAX_ERROR: Final = 1024
"""Bytes of an error that the daemon accepts."""

ConfigHandler = Callable[[EffectiveConfig], Awaitable[None] | None]
"""Makes a configuration effective, or raises to refuse it; may be asynchronous."""


class ConfigApplier:
    """Holds the last configuration that worked and tries every newer one.

    Attempts run one after the other; what arrives meanwhile replaces what has not been tried yet.
    An attempt that raises is answered FAILED, and the previous configuration keeps running.

    Args:
        handler: makes a configuration effective; None accepts everything.
        on_outcome: called when there is something to tell the plane.
    """

    def __init__(self, handler: ConfigHandler | None, on_outcome: Callable[[], None]) -> None:
        self._handler = handler
        self._on_outcome = on_outcome
        self._running = EffectiveConfig()
        self._pending: EffectiveConfig | None = None
        self._attempted: EffectiveConfig | None = None
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._outcome = agent_pb2.ConfigAcknowledgement()
        self.error: Exception | None = None
        """Why the last attempt failed; None if it worked."""

    @property
    def running(self) -> EffectiveConfig:
        """The last configuration that worked; the documented defaults before the first."""
        return self._running

    @property
    def outcome(self) -> agent_pb2.ConfigAcknowledgement | None:
        """What the plane should know; None before the first attempt."""
        return self._outcome if self._outcome.status else None

    async def settled(self) -> None:
        """Wait until the first attempt has ended, whichever way."""
        await self._settled.wait()

    def offer(self, config: EffectiveConfig) -> None:
        """Try a configuration, unless it is the one that was tried last."""
        newest = self._pending or self._attempted
        if newest is not None and _same(newest, config):
            return
        self._pending = config
        if self._handler is None:
            self._pending = None
            self._attempted = config
            self._accept(config)
        elif self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._work(self._handler), name="fleetplane-config-handler"
            )

    async def _work(self, handler: ConfigHandler) -> None:
        try:
            while self._pending is not None:
                config, self._pending = self._pending, None
                self._attempted = config
                await self._attempt(handler, config)
        finally:
            self._task = None

    async def _attempt(self, handler: ConfigHandler, config: EffectiveConfig) -> None:
        if self._running.digest and config.digest == self._running.digest:
            self._accept(config)  # a newer revision of the same values: nothing to do
            return
        self._say(config, ConfigStatus.APPLYING)
        try:
            result = handler(config)
            if inspect.isawaitable(result):
                await result
        except Exception as error:  # noqa: BLE001  # a refusal may be any exception
            self._refuse(config, error)
        else:
            self._accept(config)

    def _accept(self, config: EffectiveConfig) -> None:
        self._running = config
        self.error = None
        self._say(config, ConfigStatus.APPLIED)
        self._settled.set()
        self._on_outcome()

    def _refuse(self, config: EffectiveConfig, error: Exception) -> None:
        self.error = error
        _log.warning("configuration revision %d was refused: %r", config.revision, error)
        text = f"{type(error).__name__}: {error}".encode()[:MAX_ERROR].decode(errors="ignore")
        self._say(config, ConfigStatus.FAILED, text)
        self._settled.set()
        self._on_outcome()

    def _say(self, config: EffectiveConfig, status: ConfigStatus, error: str = "") -> None:
        self._outcome = agent_pb2.ConfigAcknowledgement(
            attempted_revision=config.revision,
            running_revision=self._running.revision,
            status=agent_pb2.ConfigStatus.ValueType(status),
            error=error,
        )

    async def aclose(self) -> None:
        """Cancel an attempt in flight and wait for it; idempotent."""
        self._pending = None
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _same(one: EffectiveConfig, other: EffectiveConfig) -> bool:
    return one.revision == other.revision and one.digest == other.digest
