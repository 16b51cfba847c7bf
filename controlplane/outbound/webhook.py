"""Posts signed messages to one URL, as Standard Webhooks 1.0.0 says (standardwebhooks.com).

Headers: `webhook-id` (the same for every attempt at one message, so that receivers can drop what
they know), `webhook-timestamp` (seconds since 1970) and `webhook-signature`: `v1,` and the base64
of HMAC-SHA256 over `<id>.<timestamp>.<body>`.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
from pathlib import Path
from typing import Final, Self

import httpx

from controlplane.services.approvals.notices import WebhookRefused

ATTEMPT_SECONDS: Final = 10.0
"""Bound of one attempt, connection included: receivers acknowledge first and work afterwards."""

MAX_CONNECTIONS: Final = 10
"""More messages at once wait; a webhook is told of a few approvals, not of a stream of events."""

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - of every secret of the standard, and none itself
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 64
"""Bounds of the key, by the standard."""

_MAX_FILE_BYTES: Final = 4096


class SecretUnusable(Exception):
    """The file of the secret cannot be used; names the file and never what is in it."""


def read_secret(path: Path) -> bytes:
    """Return the signing key in a file: `whsec_` and base64 of 24-64 random bytes.

    Raises:
        SecretUnusable: the file cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES).decode("ascii").strip()
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (OSError, UnicodeDecodeError, binascii.Error) as error:
        raise SecretUnusable(f"{path}: no base64 text can be read") from error
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise SecretUnusable(f"{path}: must hold the base64 of 24-64 bytes")
    return key


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


class HttpWebhook:
    """`services.approvals.notices.Webhook` over HTTP. An async context manager.

    Redirects are not followed: the operator has named the receiver. The file of the secret is read
    for every attempt, so that a new secret is used without a restart.
    """

    def __init__(
        self, url: str, secret_file: Path, *, attempt_seconds: float = ATTEMPT_SECONDS
    ) -> None:
        self._url = url
        self._secret_file = secret_file
        self._attempt_seconds = attempt_seconds
        self._client = httpx.AsyncClient(
            timeout=attempt_seconds,
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS),
            follow_redirects=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def post(self, message_id: str, timestamp: int, body: bytes) -> None:
        """Deliver a message once; see `Webhook.post`."""
        try:
            key = read_secret(self._secret_file)
            headers = {
                "content-type": "application/json",
                "user-agent": "fleetplane",
                "webhook-id": message_id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signature(key, message_id, timestamp, body),
            }
            async with asyncio.timeout(self._attempt_seconds):
                status = await self._send(body, headers)
        except (httpx.HTTPError, TimeoutError) as error:
            raise WebhookRefused(type(error).__name__) from error
        except SecretUnusable as error:
            raise WebhookRefused(str(error)) from error
        if not 200 <= status < 300:  # noqa: PLR2004 - the class of success
            raise WebhookRefused(f"HTTP {status}")

    async def _send(self, body: bytes, headers: dict[str, str]) -> int:
        """Return the status; what else the receiver says is not read."""
        stream = self._client.stream("POST", self._url, content=body, headers=headers)
        async with stream as response:
            return response.status_code
