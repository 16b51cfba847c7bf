"""The floor: a bare grpc.aio server of our services, as a process of its own.

    python -m tests.bench.floor [<directory of a certificate authority>]

Same Python, same event loop, same channel options as the daemon; requests are parsed and replies
serialised as generated stubs do it. A handler returns the canned reply of its method, which a
client sets by calling `SET_REPLY` with `<full method name>\\0<serialised reply>`. `WatchConfig`
sends its canned reply at once and again whenever `UpdateConfig` is called; the streams of
`WatchTasks` take turns in sending theirs, once for each task that is submitted. With an
authority there are two more ports, with the credentials that a daemon would have: `listen_tls`, and
`listen_mtls`, which demands a certificate. Prints one JSON line `{"event": "serving", "listen":
...}` and ends with SIGTERM.
"""

import asyncio
import json
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop
from google.protobuf.message_factory import GetMessageClass

from controlplane.api.server import ServerOptions
from controlplane.credentials.authority import FileAuthority
from controlplane.credentials.server_tls import ServerTls, SignedIdentity
from fleetplane.v1 import (
    config_service_pb2,
    policy_service_pb2,
    registry_service_pb2,
    task_service_pb2,
)

SET_REPLY = "/bench.Floor/SetReply"
REFUSE: Final = "/bench.Floor/Refuse"
"""Always refused, with a status as long as the daemon's: the floor of a refusal."""

_REFUSAL: Final = "calls per second per namespace is limited to 20"
_REFUSAL_DETAILS: Final = (("grpc-status-details-bin", bytes(230)),)

_TRUST_DOMAIN: Final = "fleetplane.local"
_CERTIFICATE_SECONDS: Final = 3600.0  # what a daemon would do by default

_WATCH_CONFIG = "/fleetplane.v1.ConfigService/WatchConfig"
_UPDATE_CONFIG = "/fleetplane.v1.ConfigService/UpdateConfig"
_WATCH_TASKS = "/fleetplane.v1.TaskService/WatchTasks"
_SUBMIT_TASK = "/fleetplane.v1.TaskService/SubmitTask"
_SUBMIT_TASKS = "/fleetplane.v1.TaskService/BatchSubmitTasks"
_SERVICES = (
    registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"],
    config_service_pb2.DESCRIPTOR.services_by_name["ConfigService"],
    policy_service_pb2.DESCRIPTOR.services_by_name["PolicyService"],
    task_service_pb2.DESCRIPTOR.services_by_name["TaskService"],
)
_Context = grpc.aio.ServicerContext[Any, Any]


class Floor:
    """Canned replies, and the watchers that wait for the next push."""

    def __init__(self) -> None:
        self._types: dict[str, Any] = {}
        self._replies: dict[str, Any] = {}
        self._pushed = asyncio.Event()
        self._task_streams: deque[asyncio.Queue[None]] = deque()

    async def set_reply(self, request: bytes, _context: _Context) -> bytes:
        """Remember what a method answers."""
        method, _, reply = request.partition(b"\0")
        name = method.decode()
        self._replies[name] = self._types[name].FromString(reply)
        return b""

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """Return a handler for every method."""
        handlers = [
            grpc.method_handlers_generic_handler(
                "bench.Floor",
                {
                    "SetReply": grpc.unary_unary_rpc_method_handler(self.set_reply),
                    "Refuse": grpc.unary_unary_rpc_method_handler(_refuse),
                },
            )
        ]
        for service in _SERVICES:
            methods = {
                method.name: self._handler(f"/{service.full_name}/{method.name}", method)
                for method in service.methods
            }
            handlers.append(grpc.method_handlers_generic_handler(service.full_name, methods))
        return handlers

    def _handler(self, name: str, method: Any) -> Any:
        request, reply = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        self._types[name] = reply
        self._replies[name] = reply()
        decode, encode = request.FromString, reply.SerializeToString
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(self._echo(name), decode, encode)
        if method.server_streaming:
            if name == _WATCH_TASKS:
                return grpc.unary_stream_rpc_method_handler(self._watch_tasks, decode, encode)
            return grpc.unary_stream_rpc_method_handler(self._watch, decode)
        return grpc.unary_unary_rpc_method_handler(self._answer(name), decode, encode)

    def _answer(self, name: str) -> Callable[[Any, _Context], Awaitable[Any]]:
        replies = self._replies
        if name == _UPDATE_CONFIG:

            async def push(_request: Any, _context: _Context) -> Any:
                pushed, self._pushed = self._pushed, asyncio.Event()
                pushed.set()
                return replies[name]

            return push
        if name in (_SUBMIT_TASK, _SUBMIT_TASKS):

            async def submit(request: Any, _context: _Context) -> Any:
                if not self._task_streams:
                    return replies[name]
                for _ in request.tasks if name == _SUBMIT_TASKS else (request,):
                    self._task_streams[0].put_nowait(None)
                    self._task_streams.rotate()
                return replies[name]

            return submit

        async def answer(_request: Any, _context: _Context) -> Any:
            return replies[name]

        return answer

    def _echo(self, name: str) -> Callable[[AsyncIterator[Any], _Context], Awaitable[None]]:
        replies = self._replies

        async def echo(_requests: AsyncIterator[Any], context: _Context) -> None:
            while await context.read() is not grpc.aio.EOF:
                await context.write(replies[name])

        return echo

    async def _watch(self, _request: Any, context: _Context) -> None:
        """Send ready bytes: the floor of a push is handing the same bytes to every stream."""
        while True:
            pushed = self._pushed
            await context.write(self._replies[_WATCH_CONFIG].SerializeToString())
            await pushed.wait()

    async def _watch_tasks(self, _request: Any, context: _Context) -> None:
        """Send an assignment whenever it is this stream's turn."""
        own: asyncio.Queue[None] = asyncio.Queue()
        self._task_streams.append(own)
        try:
            while True:
                await own.get()
                await context.write(self._replies[_WATCH_TASKS])
        finally:
            self._task_streams.remove(own)


async def _refuse(_request: bytes, context: _Context) -> bytes:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, _REFUSAL, _REFUSAL_DETAILS)


async def serve(ca_dir: Path | None) -> None:
    """Serve until SIGTERM."""
    options = ServerOptions(address="127.0.0.1:0")
    server = grpc.aio.server(options=options.channel_arguments())
    server.add_generic_rpc_handlers(tuple(Floor().handlers()))
    ports = {"listen": server.add_insecure_port(options.address)}
    if ca_dir is not None:
        authority = FileAuthority.open(ca_dir, _TRUST_DOMAIN, _CERTIFICATE_SECONDS)
        identity = SignedIdentity(authority, ("127.0.0.1",))
        tls = ServerTls(identity, lambda: authority.trusted)
        ports["listen_tls"] = server.add_secure_port(options.address, tls.tls_credentials())
        ports["listen_mtls"] = server.add_secure_port(options.address, tls.mtls_credentials())
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listens = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    print(json.dumps({"event": "serving", **listens, "pid": os.getpid()}), flush=True)
    await stop.wait()
    await server.stop(grace=None)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
