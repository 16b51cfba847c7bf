"""All handlers of the server in one table, and what grpc has already read of a call.

grpc.aio asks its generic handlers one after the other for every call, a Python call each; a daemon
with a handler per service would pay for a dozen. It hands over the metadata of the call when it
asks, and makes a new copy whenever a handler asks for them again (3-5 us): so they are kept.
"""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import grpc

Metadata = Iterable[tuple[str, str | bytes]]

_ARRIVED: Final[ContextVar[Any]] = ContextVar("fleetplane_arrived", default=None)
"""What grpc said about the call of this task. Each call has a task of its own, in which grpc looks
for the handler and then runs it."""


class AllHandlers(grpc.GenericRpcHandler):
    """Every method that is served, by its full name."""

    def __init__(self, services: Mapping[str, Mapping[str, Any]]) -> None:
        """Serve methods: service -> name -> what `grpc.*_rpc_method_handler` made."""
        self._handlers = {
            f"/{service}/{name}": handler
            for service, handlers in services.items()
            for name, handler in handlers.items()
        }

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a call; None: there is no such method."""
        _ARRIVED.set(handler_call_details)
        return self._handlers.get(handler_call_details.method)


def metadata_of(context: "grpc.aio.ServicerContext[Any, Any]") -> Metadata:
    """Return the metadata that came with the call which the current task answers.

    Args:
        context: Of that call; asked if grpc has not told `AllHandlers`.
    """
    arrived = _ARRIVED.get()
    metadata: Metadata = (
        context.invocation_metadata() if arrived is None else arrived.invocation_metadata
    ) or ()
    return metadata
