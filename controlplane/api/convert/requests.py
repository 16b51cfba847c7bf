"""What many requests have in common."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from google.protobuf.message import Message

from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.services.ports import RequestKey

MAX_REQUEST_ID_BYTES = 128
MAX_REASON_BYTES = 1024


def request_key(request: Message, request_id: str) -> RequestKey | None:
    """Return what makes a write idempotent; None without a request_id.

    The digest covers the message type and every field: the same id with other content is refused.

    Raises:
        InvalidArgument: longer than 128 bytes, or with characters that do not print.
    """
    if not request_id:
        return None
    if len(request_id.encode()) > MAX_REQUEST_ID_BYTES:
        raise InvalidArgument.of("request_id", f"is longer than {MAX_REQUEST_ID_BYTES} bytes")
    if not request_id.isprintable():
        raise InvalidArgument.of("request_id", "holds characters that do not print")
    digest = hashlib.blake2b(request.DESCRIPTOR.full_name.encode(), digest_size=16)
    digest.update(request.SerializeToString(deterministic=True))
    return RequestKey(request_id, digest.hexdigest())


def reason_from_proto(
    reason: str, *, max_bytes: int = MAX_REASON_BYTES, field: str = "reason"
) -> str:
    """Return a reason for history and audit.

    Raises:
        InvalidArgument: longer than `max_bytes`.
    """
    if len(reason.encode()) > max_bytes:
        raise InvalidArgument.of(field, f"is longer than {max_bytes:,} bytes")
    return reason


def required(value: str, field: str) -> str:
    """Return a text that must be there.

    Raises:
        InvalidArgument: `field` is empty.
    """
    if not value:
        raise InvalidArgument.of(field, "is required")
    return value


@contextmanager
def collecting(wrong: list[FieldViolation]) -> Iterator[None]:
    """Note the violations of one part of a request, so that all parts are named at once."""
    try:
        yield
    except InvalidArgument as error:
        wrong.extend(error.violations)
