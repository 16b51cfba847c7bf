"""The watch of policies: what arrives, message by message, until something is complete."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fleetplane._calls import Caller
from fleetplane._config import Position
from fleetplane._values import to_seconds
from fleetplane._watches import MAX_SILENCE, Watch
from fleetplane.v1 import policy_service_pb2 as pb
from fleetplane.v1 import watch_pb2


@dataclass(frozen=True, slots=True)
class PolicyNews:
    """What the daemon said at one time; without messages, only that nothing changed."""

    messages: tuple[pb.WatchPoliciesResponse, ...]
    """To be applied together."""
    position: Position
    """Everything up to here was delivered."""
    now_ms: float
    """The daemon's clock, in milliseconds since 1970."""
    age: float
    """Seconds since its own copy was last known to be the newest."""


class PolicyWatch(Watch[pb.WatchPoliciesResponse, PolicyNews]):
    """What decides for up to 1,000 agents, then every change.

    Args:
        open_at: opens the stream, with what is held at that time.
        max_silence: seconds without a message after which a stream counts as dead.
        caller: of the connection.
    """

    def __init__(
        self,
        open_at: Callable[[], Any],
        *,
        max_silence: float = MAX_SILENCE,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(max_silence, caller)
        self._open_at = open_at
        self._parts: list[pb.WatchPoliciesResponse] = []

    def start_over(self) -> None:
        """Open the stream again before the next event; what was not handed out yet is dropped.

        Takes effect at once where nobody waits for an event: cancel who does, and iterate again.
        """
        self._ready.clear()
        self._drop()

    def _open(self) -> Any:
        self._parts = []
        return self._open_at()

    def _receive(self, message: pb.WatchPoliciesResponse) -> watch_pb2.GoAway | None:
        if message.HasField("go_away"):
            return message.go_away
        if message.bookmark:
            self._ready.append(_news((), message))
            return None
        self._parts.append(message)
        if message.complete:
            self._ready.append(_news(tuple(self._parts), message))
            self._parts = []
        return None

    def _deliver(self, event: PolicyNews) -> None:
        """Nothing to note: whoever applies the event holds it."""


def _news(
    messages: tuple[pb.WatchPoliciesResponse, ...], last: pb.WatchPoliciesResponse
) -> PolicyNews:
    return PolicyNews(
        messages,
        Position.from_message(last.position),
        last.now.seconds * 1000 + last.now.nanos / 1e6,
        to_seconds(last.age),
    )
