"""The one table from refusals to gRPC statuses.

Every non-OK answer carries a `google.rpc.ErrorInfo` with domain `fleetplane.dev`. A `DomainError`
says its message and metadata to the caller; anything else is a defect, of which the caller learns
nothing but the request id.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import (  # type: ignore[import-untyped]  # ships stubs but no py.typed
    code_pb2,
    error_details_pb2,
    status_pb2,
)

from controlplane.domain.access.refusals import Forbidden, Overloaded, Unauthenticated
from controlplane.domain.audit.refusals import OutOfRange
from controlplane.domain.errors import (
    AlreadyExists,
    DomainError,
    Draining,
    FailedPrecondition,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    NotReady,
    RevisionConflict,
    StoreUnavailable,
)
from fleetplane.v1 import error_reason_pb2

ERROR_DOMAIN: Final = "fleetplane.dev"
REASON_DEADLINE_EXCEEDED: Final = "DEADLINE_EXCEEDED"
REASON_INTERNAL: Final = "INTERNAL"
_TYPES: Final = "type.googleapis.com/"  # what `Any.Unpack` expects before the name of a message

# Statuses travel as HTTP/2 trailers, of which grpc accepts 8 KiB: the message once percent-encoded
# and, with all details, once in base64. Within these bounds an answer always arrives.
MESSAGE_BYTES: Final = 512
METADATA_BYTES: Final = 1536  # of all entries together; those beyond are left out
VIOLATIONS_BYTES: Final = 1536  # of all violations together; the first ones are the useful ones
FIELD_BYTES: Final = 256  # the longest path that our own limits allow is shorter

CODES: Final[Mapping[type[DomainError], int]] = MappingProxyType(
    {
        InvalidArgument: code_pb2.INVALID_ARGUMENT,
        NotFound: code_pb2.NOT_FOUND,
        AlreadyExists: code_pb2.ALREADY_EXISTS,
        RevisionConflict: code_pb2.ABORTED,
        FailedPrecondition: code_pb2.FAILED_PRECONDITION,
        OutOfRange: code_pb2.OUT_OF_RANGE,
        Unauthenticated: code_pb2.UNAUTHENTICATED,
        Forbidden: code_pb2.PERMISSION_DENIED,
        LimitExceeded: code_pb2.RESOURCE_EXHAUSTED,
        StoreUnavailable: code_pb2.UNAVAILABLE,
        NotReady: code_pb2.UNAVAILABLE,
        Overloaded: code_pb2.UNAVAILABLE,
        Draining: code_pb2.UNAVAILABLE,
    }
)
"""Code of each branch of the tree in `domain/errors.py`; a leaf has the code of its branch."""


REMEMBERED: Final = 1024
"""Ready answers at once, about half a megabyte. The texts of a flood are few; whoever makes many of
them pays for making them."""

MAX_WAITS: Final = 256
"""Ready times to wait; a limit that refuses makes a few, or those of long waits are made anew."""

_Text = tuple[type[DomainError], str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A status as it goes onto the wire.

    Attributes:
        code: Its `google.rpc.Code`.
        message: For people.
        reason: `ErrorReason` without its prefix.
        raw: The whole `google.rpc.Status`, serialised.
    """

    code: int
    message: str
    reason: str
    raw: bytes


class Answers:
    """Makes answers. Refusals that come in floods are kept: an answer made anew costs 25 us."""

    def __init__(self) -> None:
        self._ready: dict[_Text, Answer] = {}

    def to(self, error: BaseException, request_id: str) -> Answer:
        """Return what the caller is told about `error`; see `status_of`."""
        if not isinstance(error, _FLOODS):
            return _answer(status_of(error, request_id))
        text = (type(error), error.message, tuple(error.metadata.items()))
        ready = self._ready.get(text)
        if ready is None:
            ready = _answer(_refusal(error, retry_info=False))
            if len(self._ready) >= REMEMBERED:
                self._ready.clear()
            self._ready[text] = ready
        if error.retry_after_seconds is None:
            return ready
        # Serialised messages that are joined are one message: a list goes on in the second part.
        wait = _time_to_wait(round(error.retry_after_seconds * 1000))
        return Answer(ready.code, ready.message, ready.reason, ready.raw + wait)


_FLOODS: Final = (LimitExceeded, Overloaded, Unauthenticated)
"""What callers who do not listen are told thousands of times per second."""


def root_cause(error: BaseException) -> BaseException:
    """Return `error` without the exception groups that wrap a single cause."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def code_of(error: DomainError) -> int:
    """Return the `google.rpc.Code` of a refusal.

    Raises:
        LookupError: its branch of the tree has no row in `CODES`.
    """
    for ancestor in type(error).__mro__:
        if ancestor in CODES:
            return CODES[ancestor]
    raise LookupError(f"{type(error).__name__} has no gRPC code")


def status_of(error: BaseException, request_id: str) -> status_pb2.Status:
    """Return what the caller is told about `error`.

    Args:
        error: What a handler raised; groups with a single cause are unwrapped.
        request_id: Joins the answer and the log, for errors without a public text.
    """
    cause = root_cause(error)
    if isinstance(cause, DomainError) and cause.reason:
        return _refusal(cause)
    if isinstance(cause, asyncio.TimeoutError):
        return _status(
            code_pb2.DEADLINE_EXCEEDED,
            "the deadline of the call, or the bound of this method, has passed",
            _error_info(REASON_DEADLINE_EXCEEDED, {}),
        )
    return _status(
        code_pb2.INTERNAL,
        f"internal error; quote request id {request_id}",
        _error_info(REASON_INTERNAL, {"request_id": request_id}),
    )


def is_defect(error: BaseException) -> bool:
    """Return whether `error` is one that the daemon should never have raised."""
    cause = root_cause(error)
    expected = isinstance(cause, DomainError) and bool(cause.reason)
    return not (expected or isinstance(cause, asyncio.TimeoutError))


def reason_of(status: status_pb2.Status) -> str:
    """Return the `ErrorReason` in a status of `status_of`, without its prefix."""
    info = error_details_pb2.ErrorInfo()
    return str(info.reason) if status.details[0].Unpack(info) else ""


def _answer(status: status_pb2.Status) -> Answer:
    return Answer(status.code, status.message, reason_of(status), status.SerializeToString())


@lru_cache(maxsize=MAX_WAITS)
def _time_to_wait(milliseconds: int) -> bytes:
    """Return a serialised status that says nothing but how long to wait."""
    status = status_pb2.Status()
    _add(status, _retry_info(milliseconds))
    raw: bytes = status.SerializeToString()
    return raw


def entry_error_of(error: BaseException, request_id: str = "") -> error_reason_pb2.EntryError:
    """Return the refusal of one entry of a batch: what the single call would have answered."""
    status = status_of(error, request_id)
    entry = error_reason_pb2.EntryError(code=status.code, message=status.message)
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(info):
            entry.reason = error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{info.reason}")
            entry.metadata.update(info.metadata)
        elif detail.Unpack(bad_request):
            for violation in bad_request.field_violations:
                entry.violations.add(field=violation.field, description=violation.description)
    return entry


def _refusal(error: DomainError, *, retry_info: bool = True) -> status_pb2.Status:
    details: list[Message] = [_error_info(error.reason, error.metadata)]
    if retry_info and error.retry_after_seconds is not None:
        details.append(_retry_info(round(error.retry_after_seconds * 1000)))
    if isinstance(error, InvalidArgument):
        details.append(_bad_request(error))
    return _status(code_of(error), error.message, *details)


def _retry_info(milliseconds: int) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(milliseconds)
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _bad_request(error: InvalidArgument) -> error_details_pb2.BadRequest:
    answer = error_details_pb2.BadRequest()
    room = VIOLATIONS_BYTES
    for violation in error.violations:
        field, description = _cut(violation.field, FIELD_BYTES), _cut(violation.description)
        room -= len(field.encode()) + len(description.encode())
        if room < 0:
            break
        answer.field_violations.add(field=field, description=description)
    return answer


def _error_info(reason: str, metadata: Mapping[str, str]) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN)
    room = METADATA_BYTES
    for key, value in metadata.items():
        room -= len(key.encode()) + len(value.encode())
        if room < 0:
            break
        info.metadata[key] = value
    return info


def _status(code: int, message: str, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=_cut(message))
    for detail in details:
        _add(status, detail)
    return status


def _add(status: status_pb2.Status, detail: Message) -> None:
    """Do what `Any.Pack` does, without its copies."""
    status.details.add(
        type_url=_TYPES + detail.DESCRIPTOR.full_name, value=detail.SerializeToString()
    )


def _cut(text: str, limit: int = MESSAGE_BYTES) -> str:
    """Return `text`, shortened to `limit` bytes of UTF-8 if it is longer."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return text
    return raw[: limit - 3].decode("utf-8", "ignore") + "..."
