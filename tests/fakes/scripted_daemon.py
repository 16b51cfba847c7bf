"""A gRPC server that answers every call of the contract by a script, and notes what was asked."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, TracebackType
from typing import Any, Final, Self

import grpc
from google.protobuf.message_factory import GetMessageClass

from fleetplane.v1 import (
    access_service_pb2,
    experiment_service_pb2,
    identity_service_pb2,
    lifecycle_service_pb2,
    namespace_service_pb2,
    prompt_service_pb2,
    registry_service_pb2,
    rollout_service_pb2,
    routing_service_pb2,
    task_service_pb2,
)
from tests.fakes.fleet_plane import Refusal

_MODULES: Final[tuple[ModuleType, ...]] = (
    access_service_pb2,
    experiment_service_pb2,
    identity_service_pb2,
    lifecycle_service_pb2,
    namespace_service_pb2,
    prompt_service_pb2,
    registry_service_pb2,
    rollout_service_pb2,
    routing_service_pb2,
    task_service_pb2,
)

Answer = Callable[[Any], Any]
"""From a request to a response, an iterable of responses for a stream, or a Refusal."""


class ScriptedDaemon:
    """Listens on loopback within its `with` block; methods without an answer are refused.

    Args:
        credentials: of a port with TLS; None: plain text.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, Any]] = []
        self.shown: list[str] = []
        """The `authorization` of every call; empty: it had none."""
        self._server = grpc.server(ThreadPoolExecutor(4))
        for module in _MODULES:
            for service in module.DESCRIPTOR.services_by_name.values():
                handlers = {one.name: self._handler(one) for one in service.methods}
                generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
                self._server.add_generic_rpc_handlers((generic,))
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"

    def last(self, method: str) -> Any:
        """Return the newest request of a method."""
        return [request for name, request in self.asked if name == method][-1]

    def count(self, method: str) -> int:
        """Return how often a method was called."""
        return sum(name == method for name, _ in self.asked)

    def _handler(self, method: Any) -> Any:
        kinds: dict[str, Any] = {
            "request_deserializer": GetMessageClass(method.input_type).FromString,
            "response_serializer": GetMessageClass(method.output_type).SerializeToString,
        }
        if method.server_streaming:

            def stream(request: Any, context: Any) -> Iterator[Any]:
                yield from self._answer(method.name, request, context)

            return grpc.unary_stream_rpc_method_handler(stream, **kinds)

        def unary(request: Any, context: Any) -> Any:
            return self._answer(method.name, request, context)

        return grpc.unary_unary_rpc_method_handler(unary, **kinds)

    def _answer(self, name: str, request: Any, context: Any) -> Any:
        self.asked.append((name, request))
        self.shown.append(dict(context.invocation_metadata()).get("authorization", ""))
        script = self.answers.get(name)
        if script is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} has no answer")
            return None
        answer = script(request)
        if isinstance(answer, Refusal):
            context.abort_with_status(answer.status())
        return answer

    def says(self, method: str, *answers: Any) -> None:
        """Answer calls of a method one after the other; the last answer stays."""
        left = list(answers)
        self.answers[method] = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def streams(self, method: str, messages: Iterable[Any]) -> None:
        """Answer every call of a method with the same messages."""
        told = list(messages)
        self.answers[method] = lambda _: iter(told)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(None).wait(5)
