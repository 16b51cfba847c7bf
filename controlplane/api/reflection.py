"""Server reflection, so that `grpcurl` and `buf curl` need no proto files.

grpcio ships v1alpha only (grpc/grpc#38576). v1 has the same messages on the wire, so the same
servicer is registered a second time under the name that newer tools ask for first. v1 itself is
not among the listed services, because its descriptor is not here to be described.
"""

from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from controlplane.api.pipeline import Registrar

SERVICE_NAME_V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"
SERVICE_NAME_V1: Final = "grpc.reflection.v1.ServerReflection"


def add_reflection(services: Iterable[str], registrar: Registrar) -> None:
    """Describe `services`, given by full name, and reflection itself, under both versions."""
    names = {SERVICE_NAME_V1ALPHA, *services}
    pool: Any = _MemberPool(descriptor_pool.Default())
    servicer = reflection.aio.ReflectionServicer(names, pool)
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


class _MemberPool:
    """A descriptor pool that also finds members: methods, fields and enum values.

    The pool itself knows only types, so that `grpcurl describe <service>.<method>` would fail.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - named by the pool
        """Return the file that declares a symbol, or its parent.

        Raises:
            KeyError: neither is known.
        """
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            parent = symbol.rpartition(".")[0]
            return self._pool.FindFileContainingSymbol(parent)
