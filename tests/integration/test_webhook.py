"""A daemon tells a webhook what becomes of approvals."""

import asyncio
import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from fleetplane import AgentSpec, ApprovalVote, FleetClient, PolicyAction
from tests.fakes.daemon import DaemonError, running_daemon
from tests.fakes.webhook_receiver import Receiver, listening

KEY = bytes(range(32))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("whsec_" + base64.b64encode(KEY).decode())
    return path


async def test_who_has_to_decide_and_what_was_decided_is_told_and_signed(secret: Path) -> None:
    async with listening(Receiver()) as receiver:
        settings = {
            "approval_webhook_url": receiver.url,
            "approval_webhook_secret_file": str(secret),
        }
        with running_daemon(**settings) as daemon:
            async with FleetClient(daemon.address) as client, asyncio.timeout(60):
                await client.create_policy(
                    "ask", action=PolicyAction.REQUIRE_APPROVAL, conditions={"action": "pay"}
                )
                agent = (await client.register(AgentSpec(name="w", version="1.0.0"))).agent
                decision = await client.evaluate_policy(
                    agent.agent_id, "pay", context={"to": "ann"}
                )
                first = await _next(receiver)
                assert first["type"] == "approval.pending"
                assert first["data"]["approval_id"] == decision.approval_id
                assert first["data"]["action"]["context"] == {"to": "ann"}
                await client.decide_approval(decision.approval_id, ApprovalVote.DENY)
                assert (await _next(receiver))["type"] == "approval.denied"


async def _next(receiver: Receiver) -> Any:
    """Return the next message, its signature checked."""
    await receiver.arrived.wait()
    receiver.arrived.clear()
    headers, body = receiver.requests[-1]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(KEY, signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    return json.loads(body)


def test_a_secret_that_cannot_be_used_is_said_at_the_start(secret: Path) -> None:
    secret.write_text("not base64!")
    settings = {
        "approval_webhook_url": "http://127.0.0.1:9/",
        "approval_webhook_secret_file": str(secret),
    }
    with pytest.raises(DaemonError, match="no base64 text"), running_daemon(**settings):
        pass
