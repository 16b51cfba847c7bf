"""The call that is being answered, and who makes it.

grpc.aio runs each call in a task of its own, so one ContextVar, set once per call and never reset,
is enough: a task started by the handler inherits it, other calls never see it.
"""

import asyncio
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import grpc

from controlplane.api.methods import Method
from controlplane.domain.identity import LOCAL_ADMIN, Caller
from controlplane.telemetry.names import FIELD_METHOD, FIELD_REQUEST_ID


class Call:
    """One call, from its first byte to its status.

    Attributes:
        method: Its row in `METHODS`.
        context: grpc's side of it.
        request_id: Set by the concern `request_id`; empty before.
        caller: Set by the concern `authentication`.
        started: Moment the handler was entered, of `time.perf_counter`, in seconds.
        deadline: Armed by the concern `deadline`.
        expired: True once that deadline has cancelled the handler.
    """

    __slots__ = ("caller", "context", "deadline", "expired", "method", "request_id", "started")

    def __init__(self, method: Method, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        self.method = method
        self.context = context
        self.request_id = ""
        self.caller: Caller = LOCAL_ADMIN
        self.started = time.perf_counter()
        self.deadline: asyncio.TimerHandle | None = None
        self.expired = False


_CURRENT: ContextVar[Call | None] = ContextVar("fleetplane_call", default=None)


def enter_call(call: Call) -> None:
    """Make `call` the current one of this task and of the tasks it starts."""
    _CURRENT.set(call)


def current_call() -> Call:
    """Return the call that is being answered.

    Raises:
        LookupError: outside a call.
    """
    call = _CURRENT.get()
    if call is None:
        raise LookupError("no call is being answered here")
    return call


def current_caller() -> Caller:
    """Return who makes the current call.

    Raises:
        LookupError: outside a call.
    """
    return current_call().caller


def current_request_id() -> str:
    """Return the request id of the current call; empty outside a call."""
    call = _CURRENT.get()
    return "" if call is None else call.request_id


def log_fields() -> Mapping[str, str]:
    """Return the fields that tie a log entry to the current call; none outside a call."""
    call = _CURRENT.get()
    if call is None:
        return {}
    return {FIELD_REQUEST_ID: call.request_id, FIELD_METHOD: call.method.name}
