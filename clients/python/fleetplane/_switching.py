"""A channel that can be exchanged for another one without anybody noticing.

The security of a grpc channel is fixed when it is made, but certificates end. The stubs of a
client are therefore made on a `SwitchingChannel`: every call begins on the newest channel, and
stays on the one it began on until it ends. A channel that was replaced gets no new calls, and is
closed when its last one has ended, be it a stream of days.
"""

import asyncio
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakSet

import grpc

IDLE_CHECK: Final = 1.0
"""Seconds between looks whether the last call on a replaced channel has ended."""


class _Lane:
    """One channel and the calls that began on it."""

    __slots__ = ("calls", "channel")

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.calls: WeakSet[Any] = WeakSet()  # a callback on the call instead would make a cycle

    @property
    def busy(self) -> bool:
        """Whether a call has not ended."""
        return any(not call.done() for call in self.calls)


class _Method:
    """One method of a stub: begins its calls on the newest channel."""

    __slots__ = ("_arguments", "_bound", "_kind", "_lane", "_switch")

    def __init__(self, switch: "SwitchingChannel", kind: str, arguments: Any) -> None:
        self._switch = switch
        self._kind = kind
        self._arguments = arguments
        self._lane: _Lane | None = None
        self._bound: Any = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        lane = self._switch.lane
        if lane is not self._lane:
            path, named = self._arguments
            self._bound = getattr(lane.channel, self._kind)(*path, **named)
            self._lane = lane
        call = self._bound(*args, **options)
        lane.calls.add(call)
        return call


class SwitchingChannel(grpc.aio.Channel):
    """Passes calls on to the newest of a row of channels. Lives in one event loop.

    Args:
        channel: the first one; belongs to this object from now on, as all others do.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.lane: _Lane = _Lane(channel)
        """Where calls begin."""
        self._closing: dict[asyncio.Task[None], _Lane] = {}

    @property
    def replaced(self) -> int:
        """How many channels were replaced and still have calls in flight, or had a moment ago."""
        return len(self._closing)

    def switch(self, channel: grpc.aio.Channel) -> None:
        """Begin all further calls on another channel, which connects at once."""
        old, self.lane = self.lane, _Lane(channel)
        channel.get_state(try_to_connect=True)
        task = asyncio.get_running_loop().create_task(
            _close_when_idle(old), name="fleetplane-old-channel"
        )
        self._closing[task] = old
        task.add_done_callback(lambda ended: self._closing.pop(ended, None))

    def unary_unary(self, *path: Any, **named: Any) -> Any:
        """Return a method; see grpc.aio.Channel."""
        return _Method(self, "unary_unary", (path, named))

    def unary_stream(self, *path: Any, **named: Any) -> Any:
        """Return a method; see grpc.aio.Channel."""
        return _Method(self, "unary_stream", (path, named))

    def stream_unary(self, *path: Any, **named: Any) -> Any:
        """Return a method; see grpc.aio.Channel."""
        return _Method(self, "stream_unary", (path, named))

    def stream_stream(self, *path: Any, **named: Any) -> Any:
        """Return a method; see grpc.aio.Channel."""
        return _Method(self, "stream_stream", (path, named))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002  # as in grpc
        """Return the state of the newest channel."""
        return self.lane.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the newest channel has another state."""
        await self.lane.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the newest channel is connected."""
        await self.lane.channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Close all channels; `grace` is the time in seconds that calls in flight get."""
        tasks = tuple(self._closing)
        lanes = [*self._closing.values(), self.lane]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(lane.channel.close(grace) for lane in lanes))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close(None)


async def _close_when_idle(lane: _Lane) -> None:
    while True:
        await asyncio.sleep(IDLE_CHECK)
        if not lane.busy:
            break
    await lane.channel.close(None)
