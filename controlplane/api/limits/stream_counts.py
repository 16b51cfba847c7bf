"""Counts open streams, by caller, by namespace and of this replica, and refuses those beyond.

Every stream is held under its call from the moment it is opened until it is closed, so that nothing
is counted down twice or forgotten: the memory is that of the streams that are open.
"""

from dataclasses import dataclass
from typing import Final, TypeVar

from controlplane.api.context import Call
from controlplane.api.limits.precedence import HEARTBEAT
from controlplane.api.limits.waiting import Draw, draw, time_to_wait
from controlplane.domain.access.refusals import Overloaded, RateLimited
from controlplane.domain.namespaces import Quota

RETRY_SECONDS: Final = 5.0
"""Nobody knows when a stream ends; asking more often than this only costs."""

KEPT_FOR_HEARTBEATS: Final = 10
"""One in so many of the replica's streams can only be had by heartbeats: a crowd of watchers must
not keep agents from coming back."""


_Key = TypeVar("_Key")


@dataclass(slots=True)
class _Open:
    """What an open stream is counted under."""

    payer: str
    place: tuple[Quota, str] | None = None


class StreamCounts:
    """The open streams of this replica."""

    def __init__(self, *, per_caller: int, per_replica: int, draw: Draw = draw) -> None:
        """Allow so many at the same time; namespaces have bounds of their own."""
        self._per_caller = per_caller
        self._per_replica = per_replica
        self._room_for_others = per_replica - per_replica // KEPT_FOR_HEARTBEATS
        self._others = 0
        self._draw = draw
        self._open: dict[Call, _Open] = {}
        self._by_payer: dict[str, int] = {}
        self._by_place: dict[tuple[Quota, str], int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def of(self, quota: Quota, namespace: str) -> int:
        """Return how many are open in a namespace that count towards `quota`."""
        return self._by_place.get((quota, namespace), 0)

    def open(self, call: Call, payer: str, *, per: str = "identity") -> None:
        """Count a stream that begins.

        Args:
            call: The stream; `close` it at its end.
            payer: Whose it is; empty for somebody without a bound.
            per: What `payer` is, for the refusal.

        Raises:
            Overloaded: this replica has as many as it may; another one may have room.
            RateLimited: `per` that.
        """
        is_other = call.method.name != HEARTBEAT
        if len(self._open) >= self._per_replica or (
            is_other and self._others >= self._room_for_others
        ):
            full = Overloaded("this replica has as many open streams as it may")
            full.retry_after_seconds = time_to_wait(RETRY_SECONDS, self._draw)
            raise full
        if payer:
            held = self._by_payer.get(payer, 0)
            if held >= self._per_caller:
                raise self._too_many("open streams", self._per_caller, per)
            self._by_payer[payer] = held + 1
        self._others += is_other
        self._open[call] = _Open(payer)

    def enter(self, call: Call, quota: Quota, namespace: str, bound: int) -> None:
        """Count an open stream towards a quota of the namespace it turned out to be about, once.

        Args:
            call: The stream.
            quota: `STREAMS` or `WATCHES`.
            namespace: Where.
            bound: How many may be open there; 0: any number.

        Raises:
            RateLimited: per `namespace`. The stream stays open for the other counts.
        """
        opened = self._open[call]
        if opened.place is not None:
            return
        place = (quota, namespace)
        held = self._by_place.get(place, 0)
        if bound and held >= bound:
            refusal = self._too_many(f"open {quota.value}", bound, "namespace")
            refusal.metadata["quota"] = quota.value
            raise refusal
        opened.place = place
        self._by_place[place] = held + 1

    def close(self, call: Call) -> None:
        """Count a stream that has ended."""
        ended = self._open.pop(call)
        self._others -= call.method.name != HEARTBEAT
        if ended.payer:
            _count_down(self._by_payer, ended.payer)
        if ended.place is not None:
            _count_down(self._by_place, ended.place)

    def _too_many(self, what: str, limit: int, per: str) -> RateLimited:
        return RateLimited(
            what,
            limit=limit,
            per=per,
            retry_after_seconds=time_to_wait(RETRY_SECONDS, self._draw),
        )


def _count_down(counts: dict[_Key, int], key: _Key) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
