"""Webhooks on a real socket: signed, bounded in time, never sent elsewhere."""

import asyncio
import base64
import hashlib
import hmac
from pathlib import Path

import pytest

from controlplane.outbound.webhook import HttpWebhook, SecretUnusable, read_secret
from controlplane.services.approvals.notices import WebhookRefused
from tests.fakes.webhook_receiver import Receiver, listening

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return path


def _write(path: Path, text: str) -> None:
    path.write_text(text)


async def test_a_message_carries_the_signature_of_the_standard(secret: Path) -> None:
    async with listening(Receiver()) as receiver, HttpWebhook(receiver.url, secret) as webhook:
        await webhook.post("msg-1", 1_700_000_000, b'{"a": 1}')
    ((headers, body),) = receiver.requests
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("msg-1", "1700000000")
    expected = hmac.new(KEY, b'msg-1.1700000000.{"a": 1}', hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()
    assert (body, headers["content-type"]) == (b'{"a": 1}', "application/json")


async def test_a_new_secret_is_used_without_a_restart(secret: Path) -> None:
    async with listening(Receiver()) as receiver, HttpWebhook(receiver.url, secret) as webhook:
        await webhook.post("m", 1, b"")
        _write(secret, "whsec_" + base64.b64encode(KEY[::-1]).decode())
        await webhook.post("m", 1, b"")
    first, second = (headers["webhook-signature"] for headers, _ in receiver.requests)
    assert first != second


@pytest.mark.parametrize("status", ["500 Internal Server Error", "404 Not Found", "302 Found"])
async def test_what_is_not_acknowledged_is_refused_with_its_status(
    secret: Path, status: str
) -> None:
    elsewhere = "Location: http://127.0.0.1:9/\r\n" if status.startswith("302") else ""
    answer = f"HTTP/1.1 {status}\r\n{elsewhere}Content-Length: 0\r\n\r\n".encode()
    async with (
        listening(Receiver(answer)) as receiver,
        HttpWebhook(receiver.url, secret) as webhook,
    ):
        with pytest.raises(WebhookRefused, match=f"HTTP {status[:3]}"):
            await webhook.post("m", 1, b"")
    assert len(receiver.requests) == 1


async def test_a_receiver_that_says_nothing_is_given_up(secret: Path) -> None:
    async with (
        listening(Receiver(b"")) as receiver,
        HttpWebhook(receiver.url, secret, attempt_seconds=0.2) as webhook,
    ):
        async with asyncio.timeout(5):
            with pytest.raises(WebhookRefused):
                await webhook.post("m", 1, b"")


async def test_a_receiver_that_is_not_there_is_refused(secret: Path) -> None:
    async with HttpWebhook("http://127.0.0.1:9/", secret) as webhook:
        with pytest.raises(WebhookRefused, match="ConnectError"):
            await webhook.post("m", 1, b"")


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_!!", "whsec_" + base64.b64encode(b"short").decode()]
)
def test_a_secret_that_is_none_is_refused_by_its_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    with pytest.raises(SecretUnusable) as refused:
        read_secret(path)
    assert str(path) in str(refused.value)
    assert not text or text not in str(refused.value).replace(str(path), "")
