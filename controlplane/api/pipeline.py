"""Wraps each handler once, at registration, in the concerns of its row in `METHODS`.

The generated `add_*Servicer_to_server(servicer, registrar)` hands its handlers to `Registrar`
instead of the server. For each method the registrar compiles one coroutine out of the row: decode,
the `before` of every concern, the handler, the `after` of every concern in reverse, encode. What a
concern does not need costs nothing, what it needs costs a plain function call.

Decoding and encoding happen inside: a malformed request is refused like any other wrong argument.
Between decoding and the handler stands the gate (`gate.Gate`), which asks who may do what.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from controlplane.api.context import Call, enter_call
from controlplane.api.gate import Gate, confine, require_admitted
from controlplane.api.handlers import AllHandlers
from controlplane.api.methods import METHODS, Method
from controlplane.domain.access.permissions import Permission
from controlplane.domain.errors import InvalidArgument

ServicerContext = grpc.aio.ServicerContext[Any, Any]
Decode = Callable[[bytes], Any]
Encode = Callable[[Any], bytes]
Behaviour = Callable[[Any, Any], Awaitable[Any]]
_Function = TypeVar("_Function", bound=Callable[..., Any])

_RAW_MARK: Final = "__fleetplane_raw_unary__"
_BEHAVIOURS: Final = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
_FACTORIES: Final = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class RegistrationError(Exception):
    """A handler that the daemon must not serve; raised while the server is built."""


class MethodNotImplemented(Exception):
    """The servicer inherits this method from its generated base and does not implement it."""


class Outcome:
    """How a call ended, as far as it is known to the concern that looks.

    Attributes:
        code: Final status.
        error: What ended it, None for OK. A concern may replace it.
        reason: `ErrorReason` of a refusal without its prefix, else empty.
        cancelled_by: `client`, `deadline` or `server` for CANCELLED, else empty.
    """

    __slots__ = ("cancelled_by", "code", "error", "reason")

    def __init__(self, code: grpc.StatusCode, error: BaseException | None = None) -> None:
        self.code = code
        self.error = error
        self.reason = ""
        self.cancelled_by = ""


_SUCCESS: Final = Outcome(grpc.StatusCode.OK)  # nothing about it differs from call to call


def every_method(_method: Method) -> bool:
    """Say that a concern is wanted everywhere."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """Something done around handlers that is no handler's business.

    Attributes:
        name: For people.
        before: Called on the way in. Only concerns inside `status` may refuse by raising.
        after: Called on the way out, if the way in had got past `before`. Must not raise.
        refuse: Awaited on the way out instead of being skipped when the call has an error, before
            `after`. Must leave in `outcome.error` what grpc is to see. Must not raise.
        wanted: Whether the concern belongs to a method; asked once, at registration.
    """

    name: str
    before: Callable[[Call], None] | None = None
    after: Callable[[Call, Outcome], None] | None = None
    refuse: Callable[[Call, Outcome], Awaitable[None]] | None = None
    wanted: Callable[[Method], bool] = every_method


def raw_unary(function: _Function) -> _Function:
    """Mark a servicer's unary method as `async (bytes, Call) -> bytes`.

    It gets the request as it came off the wire and returns the reply as it goes onto it, so that a
    repeated question costs neither parsing nor rendering (see `reply_cache.ReplyCache`). Malformed
    bytes are its business: `parse` a request with `decode_request`.
    """
    setattr(function, _RAW_MARK, True)
    return function


def decode_request(decode: Decode, raw: bytes) -> Any:
    """Return the message in `raw`.

    Raises:
        InvalidArgument: field `(request)`, if it is not such a message.
    """
    try:
        return decode(raw)
    except DecodeError:
        raise InvalidArgument.of("(request)", "is not a valid message of its type") from None


class Pipeline:
    """The concerns around every handler, outermost first."""

    def __init__(
        self,
        concerns: Sequence[Concern],
        methods: Mapping[str, Method] = METHODS,
        *,
        gate: Gate | None = None,
    ) -> None:
        """Wrap handlers.

        Args:
            concerns: What is done around every handler, outermost first.
            methods: The rows.
            gate: Asked before every handler whose row needs a permission. None: nobody is asked,
                which only tests of handlers want.
        """
        self._concerns = tuple(concerns)
        self._methods = methods
        self._gate = gate

    def registrar(self, server: grpc.aio.Server) -> "Registrar":
        """Return what takes the handlers of services on behalf of `server`."""
        return Registrar(server, self)

    def wrap(self, name: str, handler: Any) -> Any:
        """Return `handler` inside the concerns of its row.

        Args:
            name: Full name of the method.
            handler: What `grpc.*_rpc_method_handler` made.

        Raises:
            RegistrationError: there is no such row, or the handler is not asynchronous.
        """
        method = self._methods.get(name)
        if method is None:
            raise RegistrationError(f"{name} has no row in controlplane/api/methods.py")
        shape = (bool(handler.request_streaming), bool(handler.response_streaming))
        behaviour = getattr(handler, _BEHAVIOURS[shape])
        chain = _Chain(method, [c for c in self._concerns if c.wanted(method)], self._gate)
        decode = handler.request_deserializer or bytes
        encode = handler.response_serializer or bytes
        if getattr(behaviour, _RAW_MARK, False):
            if shape != (False, False):
                raise RegistrationError(f"{name} is marked raw but is not unary")
            return grpc.unary_unary_rpc_method_handler(_raw(chain, behaviour))
        answer = _as_coroutine(name, behaviour)
        request_streaming, response_streaming = shape
        return _FACTORIES[shape](
            _wrapped(
                chain,
                answer,
                decode=None if request_streaming else decode,
                encode=None if response_streaming else encode,
            ),
            _refusing_malformed(decode) if request_streaming else None,
            _passing_bytes(encode) if response_streaming else None,
        )


class Registrar:
    """Stands in for the server while services are added to it."""

    def __init__(self, server: grpc.aio.Server, pipeline: Pipeline) -> None:
        self._target = server
        self._pipeline = pipeline
        self._announced: set[str] = set()
        self._services: dict[str, dict[str, Any]] = {}

    @property
    def server(self) -> grpc.aio.Server:
        """This registrar, typed as what the generated functions ask for."""
        return cast("grpc.aio.Server", self)

    @property
    def services(self) -> tuple[str, ...]:
        """Full names of the services added so far, sorted."""
        return tuple(sorted(self._services))

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]
    ) -> None:
        """Note that a service comes; its handlers follow in `add_registered_method_handlers`.

        Generated code hands the same handlers to both. A generic handler alone cannot be walked,
        so it could not be wrapped: `seal` refuses it.
        """
        for handler in generic_rpc_handlers:
            if not isinstance(handler, grpc.ServiceRpcHandler):
                raise RegistrationError("handlers must belong to a named service")
            self._announced.add(handler.service_name())

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        """Wrap the handlers of one service.

        Raises:
            RegistrationError: see `Pipeline.wrap`.
        """
        self._services[service_name] = {
            method: self._pipeline.wrap(f"/{service_name}/{method}", handler)
            for method, handler in method_handlers.items()
        }

    def seal(self) -> None:
        """Hand everything to the server. Nothing can be added afterwards.

        Raises:
            RegistrationError: a service was announced without handlers that can be wrapped.
        """
        if unwrapped := self._announced - self._services.keys():
            raise RegistrationError(f"cannot wrap the handlers of {', '.join(sorted(unwrapped))}")
        self._target.add_generic_rpc_handlers((AllHandlers(self._services),))


class _Chain:
    """The concerns of one method, compiled: what runs before, after, and on errors."""

    __slots__ = ("afters", "befores", "concerns", "gate", "method")

    def __init__(self, method: Method, concerns: Sequence[Concern], gate: Gate | None) -> None:
        self.method = method
        self.gate = gate if method.permission is not Permission.PUBLIC else None
        """None: the method needs no permission, or nobody is asked."""
        self.concerns = tuple(concerns)
        self.befores = tuple(
            (position, c.before) for position, c in enumerate(concerns) if c.before is not None
        )
        self.afters = tuple(c.after for c in reversed(concerns) if c.after is not None)

    async def fail(self, call: Call, error: BaseException, entered: int) -> None:
        """Unwind the first `entered` concerns and raise what grpc is to see.

        Returns if the call was aborted: grpc keeps the AbortError with the call and raises it
        itself as soon as the handler returns, whatever that returns.
        """
        outcome = Outcome(grpc.StatusCode.UNKNOWN, error)
        for concern in reversed(self.concerns[:entered]):
            if concern.refuse is not None and outcome.error is not None:
                await concern.refuse(call, outcome)
            if concern.after is not None:
                concern.after(call, outcome)
        if isinstance(outcome.error, grpc.aio.AbortError):
            # Frames of a traceback hold the call, which holds the error: a flood of refusals would
            # leave cycles whose collection stops everybody for 30 ms.
            outcome.error.__traceback__ = outcome.error.__context__ = None
            return
        try:
            raise outcome.error or error
        finally:
            del outcome, error  # the traceback of an exception must not keep itself alive


def _raw(chain: _Chain, behaviour: Behaviour) -> Behaviour:
    """Return the coroutine for a handler of raw bytes."""
    method, befores, afters, depth = chain.method, chain.befores, chain.afters, len(chain.concerns)
    gate = chain.gate

    async def invoke(raw: bytes, context: ServicerContext) -> bytes:
        call = Call(method, context, gate)
        enter_call(call)
        entered = 0
        try:
            for entered, before in befores:  # noqa: B007 - read by the except branch
                before(call)
            entered = depth
            reply: bytes = await behaviour(raw, call)
            if not call.admitted:
                require_admitted(call)
        except BaseException as error:  # noqa: BLE001 - every end of a call passes the concerns
            await chain.fail(call, error, entered)
            return b""
        for after in afters:
            after(call, _SUCCESS)
        return reply

    return invoke


def _wrapped(
    chain: _Chain, behaviour: Behaviour, *, decode: Decode | None, encode: Encode | None
) -> Behaviour:
    """Return the coroutine for a handler of messages, of any shape.

    Args:
        chain: The concerns around it.
        behaviour: The handler.
        decode: Turns a unary request into a message; None for a stream of requests.
        encode: Turns a unary reply into bytes; None if the handler writes its replies.
    """
    method, befores, afters, depth = chain.method, chain.befores, chain.afters, len(chain.concerns)
    gate = chain.gate
    enter = None if gate is None else gate.entry(method, streaming=decode is None)

    async def invoke(request: Any, context: ServicerContext) -> bytes | None:
        call = Call(method, context, gate)
        enter_call(call)
        entered = 0
        answer = None
        try:
            for entered, before in befores:  # noqa: B007 - read by the except branch
                before(call)
            entered = depth
            message = request if decode is None else decode_request(decode, request)
            if enter is not None:
                enter(call, message)
                if call.confined:
                    await confine(call, message)
            reply = await behaviour(message, context)
            if not call.admitted:
                require_admitted(call)
            code: grpc.StatusCode | None = context.code()  # None unless the handler set one
            if encode is not None and (reply is not None or code is None):
                answer = encode(reply)
        except BaseException as error:  # noqa: BLE001 - every end of a call passes the concerns
            await chain.fail(call, error, entered)
            return None
        outcome = _SUCCESS if code is None else Outcome(code)
        for after in afters:
            after(call, outcome)
        return answer

    return invoke


def _as_coroutine(name: str, behaviour: Any) -> Behaviour:
    """Return a handler of any style as a coroutine function.

    Async generators are driven with `aclosing`: grpc itself iterates them without closing, and
    their `finally` would run later, in another task and another context.
    """
    if inspect.iscoroutinefunction(behaviour):
        coroutine: Behaviour = behaviour
        return coroutine
    if inspect.isasyncgenfunction(behaviour):

        async def drive(request: Any, context: ServicerContext) -> None:
            async with aclosing(behaviour(request, context)) as replies:
                async for reply in replies:
                    await context.write(reply)

        return drive
    if getattr(behaviour, "__module__", "").endswith("_pb2_grpc"):

        async def refuse(_request: Any, _context: ServicerContext) -> NoReturn:
            raise MethodNotImplemented(name)

        return refuse
    raise RegistrationError(f"{name} must be a coroutine function or an async generator")


def _passing_bytes(encode: Encode) -> Encode:
    """Return `encode`, but for messages that were serialised before, once for many watchers."""

    def encode_unless_ready(message: Any) -> bytes:
        return message if type(message) is bytes else encode(message)

    return encode_unless_ready


def _refusing_malformed(decode: Decode) -> Decode:
    """Return `decode`, refusing malformed messages of a stream as wrong arguments."""

    def decode_or_refuse(raw: bytes) -> Any:
        return decode_request(decode, raw)

    return decode_or_refuse
