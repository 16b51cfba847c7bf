"""`fleetplane health` against a server of health alone."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from typer.testing import Result

from controlplane.cli.outcomes import REFUSED, UNREACHABLE

Run = Callable[..., Result]


class Replica:
    """Says what it is told to say."""

    def __init__(self, servicer: health.HealthServicer, address: str) -> None:
        self._servicer = servicer
        self.address = address

    def says(self, status: int) -> None:
        self._servicer.set("", status)


@pytest.fixture
def replica() -> Iterator[Replica]:
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield Replica(servicer, f"127.0.0.1:{port}")
        server.stop(0).wait()


def test_a_replica_that_serves_is_healthy(replica: Replica, bare: Run) -> None:
    replica.says(health_pb2.HealthCheckResponse.SERVING)
    assert bare("health", "--address", replica.address).stdout == "SERVING\n"


def test_a_replica_that_starts_or_drains_is_not(replica: Replica, bare: Run) -> None:
    replica.says(health_pb2.HealthCheckResponse.NOT_SERVING)
    answer = bare("health", "--address", replica.address, "-o", "json", code=REFUSED)
    assert json.loads(answer.stdout) == {"status": "NOT_SERVING"}


def test_nobody_is_not_healthy_either(bare: Run) -> None:
    nobody = "unix:/nonexistent/socket"
    bare("health", "--address", nobody, "--timeout", "1", code=UNREACHABLE)
