"""`grpc.health.v1.Health`: whether this replica wants traffic.

Differs from the servicer that comes with grpc in three ways: `List` works, a watcher that does not
read holds up nobody else, and watches end when the replica shuts down (else every load balancer
that watches would cost the whole grace).
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE_NAME: Final = "grpc.health.v1.Health"

_pb: Any = health_pb2  # the published stubs lack List and the enum values


class Health(health_pb2_grpc.HealthServicer):
    """Answers for the whole server (`""`) and for each of its services.

    Starts as NOT_SERVING: a replica wants traffic once it has loaded its first snapshot.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._serving = False
        self._final = False
        self._changed = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether the replica says SERVING."""
        return self._serving

    def set_ready(self, ready: bool) -> None:  # noqa: FBT001 - reads as a sentence: set_ready(False)
        """Say SERVING or NOT_SERVING for all services; ignored once shutdown has begun."""
        if not self._final and ready != self._serving:
            self._serving = ready
            self._wake()

    def enter_graceful_shutdown(self) -> None:
        """Say NOT_SERVING for good and end the watches. Idempotent."""
        self._final = True
        self._serving = False
        self._wake()

    async def Check(  # noqa: N802 - named by the protocol
        self,
        request: health_pb2.HealthCheckRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> Any:
        """Return the state of one service; NOT_FOUND for a service that is not here."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _pb.HealthCheckResponse(status=self._status(request.service))

    async def List(  # noqa: N802 - named by the protocol
        self,
        _request: Any,
        _context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> Any:
        """Return the state of all services."""
        return _pb.HealthListResponse(
            statuses={
                service: _pb.HealthCheckResponse(status=self._status(service))
                for service in sorted(self._services)
            }
        )

    async def Watch(  # noqa: N802 - named by the protocol
        self,
        request: health_pb2.HealthCheckRequest,
        _context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> AsyncIterator[Any]:
        """Stream the state of one service, now and after each change, until shutdown."""
        told = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != told:
                yield _pb.HealthCheckResponse(status=status)
                told = status
            elif self._final:
                return
            else:
                await changed.wait()

    def _status(self, service: str) -> int:
        states = _pb.HealthCheckResponse
        if service not in self._services:
            return int(states.SERVICE_UNKNOWN)
        return int(states.SERVING if self._serving else states.NOT_SERVING)

    def _wake(self) -> None:
        """Wake the watchers; each later wait needs a new event."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
