"""The example of docs/limits.md does what the page says, on a real daemon."""

import asyncio
import re
import sys
from pathlib import Path

import grpc

from fleetplane.v1 import namespace_service_pb2 as pb
from fleetplane.v1 import namespace_service_pb2_grpc as pb_grpc
from tests.fakes.daemon import Daemon

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"


async def test_the_example_is_refused_after_ten_seconds_worth_and_then_waits(
    daemon: Daemon, namespace: str, tmp_path: Path
):
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        request = pb.CreateNamespaceRequest(name=namespace, quotas=pb.Quotas(calls_per_second=2))
        await pb_grpc.NamespaceServiceStub(channel).CreateNamespace(request, timeout=10)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    here = f'FleetClient("{daemon.address}", namespace="{namespace}"'
    script = tmp_path / "example.py"
    script.write_text(program.replace('FleetClient(namespace="noisy"', here))
    running = await asyncio.create_subprocess_exec(
        sys.executable, script, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(running.communicate(), 50)
    first, second, third = output.decode().splitlines()
    made = int(first.partition(" ")[0])
    assert 20 <= made <= 25, "ten seconds' worth, and what is refilled meanwhile"
    assert "calls per second per namespace is limited to 2" in first
    assert re.fullmatch(r"come back in 0\.[0-5]\d s", second)
    waited = float(re.findall(r"took (\d+) s", third)[0])
    assert waited >= 2
