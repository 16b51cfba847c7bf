"""Calls in bytes: the clients of the benchmark neither render nor parse what they need not."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc

Metadata = tuple[tuple[str, str], ...]
Unary = Callable[[bytes], Awaitable[bytes]]
Replies = grpc.aio.UnaryStreamCall[bytes, bytes]
Exchange = grpc.aio.StreamStreamCall[bytes, bytes]


def unary(channel: grpc.aio.Channel, method: str, metadata: Metadata = ()) -> Unary:
    """Return what calls a unary method."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    return partial(call, metadata=metadata) if metadata else call


def subscribe(
    channel: grpc.aio.Channel, method: str, request: bytes, metadata: Metadata = ()
) -> Replies:
    """Open a stream of replies."""
    call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(method)
    return call(request, metadata=metadata)


def exchange(channel: grpc.aio.Channel, method: str, metadata: Metadata = ()) -> Exchange:
    """Open a stream in both directions."""
    stream: Exchange = channel.stream_stream(method)(metadata=metadata)
    return stream


async def next_reply(stream: Replies | Exchange) -> bytes:
    """Return the next message of a stream.

    Raises:
        RuntimeError: the stream ended.
    """
    reply: Any = await stream.read()
    if reply is grpc.aio.EOF:
        raise RuntimeError("the stream ended")
    raw: bytes = reply
    return raw


async def ask_once(channel: grpc.aio.Channel, method: str, message: bytes) -> bytes:
    """Send one message on a stream of its own and return the answer to it."""
    stream = exchange(channel, method)
    await stream.write(message)
    reply = await next_reply(stream)
    stream.cancel()
    return reply
