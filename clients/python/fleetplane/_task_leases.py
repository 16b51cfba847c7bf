"""What an agent writes about the tasks it holds: repeated until the plane has it, or fences it."""

import asyncio
from typing import Final, NamedTuple, TypeVar

import grpc

from fleetplane._calls import MAX_BACKOFF, MIN_BACKOFF, Backoff, is_final
from fleetplane._connected import Connection
from fleetplane._exceptions import FleetError, PermissionDenied, Unauthenticated
from fleetplane.v1 import task_service_pb2 as pb

Request = TypeVar("Request")
Response = TypeVar("Response")

MAX_DETAIL: Final = 1024
"""Bytes of words the daemon accepts about a failure."""


class Lease(NamedTuple):
    """A lease of this process: nobody else writes about the task while it lasts."""

    task_id: str
    """Which task."""
    epoch: int
    """Which lease of it."""


class LeaseWriter:
    """Writes about the leases of one instance.

    A write is repeated, with growing pauses, as long as it may still succeed: while nobody answers,
    and while the credentials are refused, for these are renewed. Only the plane ends a lease, so
    only its word (`LeaseFenced`, `NotFound`) ends the attempts; cancel the call to give up.

    Args:
        connection: open channel to the daemon.
        namespace: tenant of the instance.
        instance_id: who holds the leases.
    """

    def __init__(self, connection: Connection, namespace: str, instance_id: str) -> None:
        self._connection = connection
        self._namespace = namespace
        self._instance_id = instance_id

    async def accept(self, lease: Lease) -> pb.Task:
        """Begin an attempt; return the task as it is now."""
        request = pb.AcceptTaskRequest(namespace=self._namespace, lease=self._lease(lease))
        return (await self._write(self._connection.tasks.AcceptTask, request)).task

    async def progress(
        self, lease: Lease, share: float, message: str, checkpoint: bytes | None
    ) -> None:
        """Report how far an attempt is."""
        request = pb.ReportProgressRequest(
            namespace=self._namespace,
            lease=self._lease(lease),
            progress=share,
            message=message,
            checkpoint=checkpoint,
        )
        await self._write(self._connection.tasks.ReportProgress, request)

    async def complete(self, lease: Lease, result: bytes) -> None:
        """End the task with its result."""
        request = pb.CompleteTaskRequest(
            namespace=self._namespace, lease=self._lease(lease), result=result
        )
        await self._write(self._connection.tasks.CompleteTask, request)

    async def fail(self, lease: Lease, detail: str, *, permanent: bool = False) -> None:
        """End the attempt as failed."""
        request = pb.FailTaskRequest(
            namespace=self._namespace,
            lease=self._lease(lease),
            detail=bounded(detail),
            permanent=permanent,
        )
        await self._write(self._connection.tasks.FailTask, request)

    async def release(self, lease: Lease, detail: str) -> None:
        """Give the task back unharmed."""
        request = pb.FailTaskRequest(
            namespace=self._namespace,
            lease=self._lease(lease),
            detail=bounded(detail),
            release=True,
        )
        await self._write(self._connection.tasks.FailTask, request)

    def _lease(self, lease: Lease) -> pb.TaskLease:
        return pb.TaskLease(task_id=lease.task_id, instance_id=self._instance_id, epoch=lease.epoch)

    async def _write(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]", request: Request
    ) -> Response:
        backoff = Backoff(MIN_BACKOFF, MAX_BACKOFF)
        while True:
            try:
                return await self._connection.call(method, request)
            except FleetError as error:
                if is_final(error) and not isinstance(error, (PermissionDenied, Unauthenticated)):
                    raise
                wait = backoff.next(error.retry_after)
            await asyncio.sleep(wait)


def bounded(text: str) -> str:
    """Return words that the daemon accepts: Unicode, cut to `MAX_DETAIL` bytes."""
    data = text.encode(errors="replace")
    return data[:MAX_DETAIL].decode(errors="ignore")
