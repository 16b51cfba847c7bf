"""A daemon with `--secure`: where it serves, and with which certificates."""

import contextlib
import json
import os
import subprocess
import sys
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controlplane.credentials import authority
from controlplane.credentials.roots import pem_of
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.tls_ports import Shown, channel_of, refused

pytestmark = [pytest.mark.xdist_group("workers"), pytest.mark.timeout(120)]

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def announced(daemon: Daemon) -> dict[str, Any]:
    line: dict[str, Any] = json.loads((daemon.directory / "announced").read_text())
    return line


async def serves(address: str, roots: bytes) -> bool:
    """Return whether a new connection that trusts these roots is answered."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        async with channel_of(address, Shown(roots=roots)) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_secure_daemon_serves_both_ports_and_follows_its_authority(workers):
    with running_daemon(
        secure=True, listen_mtls="127.0.0.1:0", workers=workers, grace_seconds=1.0
    ) as daemon:
        line = announced(daemon)
        assert line["authenticates"] is True
        assert line["ca_bundle"] == str(daemon.data_dir / "ca" / "bundle.pem")
        old = pem_of(*authority.read_roots(daemon.data_dir / "ca").trusted)
        for _ in range(4 * workers):
            assert await serves(line["listen"], old)
        assert await refused(line["listen_mtls"], Shown(roots=old)) is UNAVAILABLE

        new = pem_of(authority.rotate(daemon.data_dir / "ca").current)
        await eventually("the new root is taken up", lambda: serves(line["listen"], new))
        for _ in range(4 * workers):
            assert await serves(line["listen"], old)


async def test_plain_text_is_not_answered():
    with running_daemon(secure=True, grace_seconds=1.0) as daemon:
        async with grpc.aio.insecure_channel(daemon.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert refusal.value.code() is UNAVAILABLE


def test_a_daemon_whose_key_is_open_to_others_says_so_and_does_not_start(tmp_path):
    authority.init(tmp_path / "ca", "fleetplane.local")
    (tmp_path / "ca" / "ca.key").chmod(0o644)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLEETPLANE_")}
    command = [sys.executable, "-m", "controlplane", "serve", "--secure"]
    outcome = subprocess.run(
        [*command, "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)],
        env=inherited,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 1
    assert "open to others" in outcome.stderr
    assert "Traceback" not in outcome.stderr
