"""Page tokens that only we can make, and only for the list they were made for.

A token is the cursor, in clear but opaque by contract, behind a truncated HMAC-SHA256 over the
namespace, the arguments of the list and the cursor. Replicas that share the secret accept each
other's tokens; nothing is kept on the server.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final

from google.protobuf.message import Message

from controlplane.domain.errors import FieldViolation, InvalidArgument, InvalidCursor

DEFAULT_PAGE_SIZE: Final = 100
MAXIMUM_PAGE_SIZE: Final = 1000

_VERSION: Final = b"fleetplane page token 1"
_MAC_BYTES: Final = 16  # 128 bits: forging by trial is hopeless, and tokens stay short
_SECRET_BYTES: Final = 16
_PAGING_FIELDS: Final = ("page_token", "page_size", "min_revision")


def page_size(
    value: int, default: int = DEFAULT_PAGE_SIZE, maximum: int = MAXIMUM_PAGE_SIZE
) -> int:
    """Return the wanted page size: `default` for 0.

    Raises:
        InvalidArgument: field `page_size`, above `maximum` or negative.
    """
    if not 0 <= value <= maximum:
        raise InvalidArgument.of("page_size", f"must be 1-{maximum}; 0 means {default}")
    return value or default


def digest_of_arguments(request: Message) -> bytes:
    """Return what identifies a list: the request's type and fields, without those of paging.

    `page_token`, `page_size` and `min_revision` may change from page to page.
    """
    arguments = type(request)()
    arguments.CopyFrom(request)
    for field in _PAGING_FIELDS:
        if field in arguments.DESCRIPTOR.fields_by_name:
            arguments.ClearField(field)
    digest = hashlib.sha256(arguments.DESCRIPTOR.full_name.encode())
    digest.update(b"\0" + arguments.SerializeToString(deterministic=True))
    return digest.digest()


class PageTokens:
    """Makes and checks page tokens."""

    def __init__(self, secret: bytes) -> None:
        """Use `secret`, at least 16 random bytes, shared by all replicas.

        Raises:
            ValueError: it is shorter.
        """
        if len(secret) < _SECRET_BYTES:
            raise ValueError(f"the secret of page tokens needs at least {_SECRET_BYTES} bytes")
        self._secret = secret

    def encode(self, namespace: str, digest_of_arguments: bytes, cursor: str) -> str:
        """Return the token that continues a list after `cursor`."""
        raw = cursor.encode()
        mac = self._mac(namespace, digest_of_arguments, raw)
        return base64.urlsafe_b64encode(mac + raw).rstrip(b"=").decode("ascii")

    def decode(self, token: str, namespace: str, digest_of_arguments: bytes) -> str:
        """Return the cursor in `token`; an empty token means the first page, an empty cursor.

        Raises:
            InvalidCursor: field `page_token`; it was not made here, or for another list.
        """
        if not token:
            return ""
        try:
            padding = "=" * (-len(token) % 4)
            raw = base64.b64decode(token + padding, altchars=b"-_", validate=True)
            mac, cursor = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        except (binascii.Error, ValueError):
            raise _foreign() from None
        if not hmac.compare_digest(mac, self._mac(namespace, digest_of_arguments, cursor)):
            raise _foreign()
        return cursor.decode()

    def _mac(self, namespace: str, digest: bytes, cursor: bytes) -> bytes:
        message = hmac.new(self._secret, _VERSION, hashlib.sha256)
        for part in (namespace.encode(), digest, cursor):
            message.update(len(part).to_bytes(4, "big") + part)
        return message.digest()[:_MAC_BYTES]


def _foreign() -> InvalidCursor:
    return InvalidCursor(
        FieldViolation(
            "page_token",
            "was not issued here for this list; start again without one, with all other fields"
            " unchanged from page to page",
        )
    )
