"""What many requests have in common."""

import hashlib

from google.protobuf.message import Message

from controlplane.domain.errors import InvalidArgument
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


def reason_from_proto(reason: str) -> str:
    """Return a reason for history and audit.

    Raises:
        InvalidArgument: longer than 1,024 bytes.
    """
    if len(reason.encode()) > MAX_REASON_BYTES:
        raise InvalidArgument.of("reason", f"is longer than {MAX_REASON_BYTES} bytes")
    return reason
