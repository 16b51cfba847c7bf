"""Server reflection, so that `grpcurl` and `buf curl` need no proto files.

grpcio ships v1alpha only (grpc/grpc#38576). v1 has the same messages on the wire, so the same
servicer is registered a second time under the name that newer tools ask for first. v1 itself is
not among the listed services, because its descriptor is not here to be described.
"""

from collections.abc import Iterable
from typing import Final

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from controlplane.api.pipeline import Registrar

SERVICE_NAME_V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"
SERVICE_NAME_V1: Final = "grpc.reflection.v1.ServerReflection"


def add_reflection(services: Iterable[str], registrar: Registrar) -> None:
    """Describe `services`, given by full name, and reflection itself, under both versions."""
    servicer = reflection.aio.ReflectionServicer({SERVICE_NAME_V1ALPHA, *services})
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]  # stub
        servicer, registrar
    )
    registrar.add_registered_method_handlers(
        SERVICE_NAME_V1,
        {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                servicer.ServerReflectionInfo,
                request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        },
    )
