"""`fleetplane health`: what a probe of a container asks."""

from typing import Any, Final

import typer

from controlplane.cli.call import Globals, Output, epilog, with_globals
from controlplane.cli.outcomes import REFUSED
from controlplane.cli.rendering import write, write_value
from controlplane.cli.styles import PLAIN

PROBE_SECONDS: Final = 3.0
"""Deadline without --timeout: probes run every few seconds, and give up themselves."""

_CHECK: Final = "/grpc.health.v1.Health/Check"


async def _health(call: Globals) -> None:
    """Ask a replica whether it serves.

    For probes of containers and for scripts: no credential is needed, on the port for certificates
    the certificate is. The exit code is the answer: 0 it serves, 1 it does not (it starts, drains,
    or has lost its store), 3 nobody answers.
    """
    from grpc_health.v1 import health_pb2  # noqa: PLC0415  # not for help

    async with call.client() as client:
        connection = client.connection
        check: Any = connection.channel.unary_unary(
            _CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer = await connection.call(
            check, health_pb2.HealthCheckRequest(), call.timeout or PROBE_SECONDS
        )
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if call.output is Output.TABLE:
        write(status)
    else:
        write_value(call.output, {"status": status})
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(REFUSED)


health = typer.Typer(**{**PLAIN, "no_args_is_help": False})
health.command(
    "health",
    epilog=epilog(
        (
            "fleetplane health",
            "fleetplane health --address 127.0.0.1:50051 --ca /data/ca/bundle.pem --timeout 2",
        )
    ),
)(with_globals(_health, shown=frozenset({"address", "ca_file"})))
