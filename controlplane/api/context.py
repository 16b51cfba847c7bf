"""The call that is being answered, and who makes it.

grpc.aio runs each call in a task of its own, so one ContextVar, set once per call and never reset,
is enough: a task started by the handler inherits it, other calls never see it. A task that outlives
its call must therefore be started elsewhere, or it would log under the wrong request id.
"""

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

import grpc

from controlplane.api.methods import Method
from controlplane.domain.access.permissions import Permission
from controlplane.domain.identity import ANONYMOUS, LOCAL_ADMIN, Caller
from controlplane.services.read_model import NamespaceView
from controlplane.telemetry.names import FIELD_METHOD, FIELD_REQUEST_ID

May = Callable[[Caller, Permission, str], bool]
"""Whether a caller has a permission in a namespace."""


def _no_request_id(_call: "Call") -> str:
    return ""


class Gatekeeper(Protocol):
    """Lets calls pass; `gate.Gate` does."""

    def enter(self, call: "Call", namespace: str) -> None:
        """Let a call into a namespace, or refuse it."""

    async def confine(self, call: "Call", message: Any) -> None:
        """Refuse what is not about the agent that a confined caller is."""

    async def confine_beats(self, call: "Call", view: NamespaceView, request: Any) -> None:
        """Refuse beats of instances that are not those of the agent."""


class Call:
    """One call, from its first byte to its status.

    Attributes:
        method: Its row in `METHODS`.
        context: grpc's side of it.
        caller: Set by the concern `authentication`; nobody before that.
        gate: Who lets it pass; None where nobody is asked.
        asked: Where it wants to be let in, `*` for everywhere; empty until the gate is asked.
        namespace: Where the gate has let it in, `*` for everywhere; empty before that.
        entries: Of a batch, set before it passes the gate; 1 for other calls.
        confined: Set by the gate: the caller may only speak about the agent that it is.
        admitted: Set by the gate once nothing is left to be checked, and true without a gate. A
            call that ends well without it is a defect, and is not answered.
        started: Moment the handler was entered, of `time.perf_counter`, in seconds.
        find_request_id: Set by the concern `request_id`.
        expired: Set by the concern `deadline` when it cancels the handler.
    """

    __slots__ = (
        "_request_id",
        "admitted",
        "asked",
        "caller",
        "confined",
        "context",
        "entries",
        "expired",
        "find_request_id",
        "gate",
        "method",
        "namespace",
        "started",
    )

    def __init__(
        self,
        method: Method,
        context: "grpc.aio.ServicerContext[Any, Any]",
        gate: Gatekeeper | None = None,
    ) -> None:
        self.method = method
        self.context = context
        self.gate = gate
        # Nobody, until it is known who calls: whoever refuses the call earlier must not name an
        # administrator, and whatever forgets to ask must not make one.
        self.caller: Caller = LOCAL_ADMIN if gate is None else ANONYMOUS
        self.asked = ""
        self.namespace = ""
        self.entries = 1
        self.confined = False
        self.admitted = gate is None
        self.started = time.perf_counter()
        self.find_request_id: Callable[[Call], str] = _no_request_id
        self.expired = False
        self._request_id = ""

    @property
    def address(self) -> str:
        """Where it comes from, such as `ipv4:127.0.0.1:40112`."""
        return self.context.peer()

    @property
    def caller_kind(self) -> str:
        """What its caller is, a `CallerKind`."""
        return self.caller.kind

    @property
    def request_id(self) -> str:
        """The id that joins the caller's log with ours; empty before the concern `request_id`."""
        if not self._request_id:
            self._request_id = self.find_request_id(self)
        return self._request_id


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
