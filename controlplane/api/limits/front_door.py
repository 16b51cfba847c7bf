"""Calls this replica as its clients do, to learn how long calls wait before they are seen.

grpc.aio accepts one call per turn of the event loop and keeps the others in a queue that nobody can
look into. When handlers keep the loop busy in small steps, that queue grows to seconds while every
task still gets its turn in milliseconds: only a call that stands in the queue itself can tell.
"""

import logging
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

PATIENCE: Final = 8.0
"""How many times the threshold of overload an answer is waited for: twice where writes are refused
(`precedence.shed_at`), so that one such wait says all that there is to say."""

_SOCKET: Final = "door"

_log = logging.getLogger("fleetplane.overload")


class FrontDoor:
    """A private port of a server and a client of it."""

    def __init__(self, *, overload_lag_seconds: float) -> None:
        """Knock with patience for an overload that begins at `overload_lag_seconds`."""
        self._patience = PATIENCE * overload_lag_seconds
        self._stub: Any = None  # the published stubs know only synchronous channels

    @asynccontextmanager
    async def opened(self, server: grpc.aio.Server) -> AsyncIterator[None]:
        """Open the port; `server` must not have been started and must serve health.

        It is a unix socket in a directory that only this user can enter. Where none can be made it
        stays closed, which is logged: overload is then known by the lag of the event loop alone.
        """
        try:
            place = tempfile.TemporaryDirectory(prefix="fp-door-", ignore_cleanup_errors=True)
        except OSError as error:
            _log.warning("no directory for the front door", extra={"error": str(error)})
            yield
            return
        with place as directory:
            address = f"unix:{directory}/{_SOCKET}"
            server.add_insecure_port(address)
            options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                self._stub = health_pb2_grpc.HealthStub(channel)
                try:
                    yield
                finally:
                    self._stub = None

    async def knock(self) -> None:
        """Return once a call was answered, or patience has ended; at once if the door is closed.

        An answer that says no (the server is going away, its connection was too old) is an answer.
        """
        stub = self._stub
        if stub is None:
            return
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=self._patience)
        except grpc.aio.AioRpcError as error:
            _log.debug("the front door said no", extra={"code": error.code().name})
