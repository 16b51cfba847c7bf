"""Limits what one caller and one namespace may ask of this replica."""

from collections.abc import Mapping
from typing import Final

from controlplane.api.context import Call
from controlplane.api.limits.beat_budget import BeatBudget
from controlplane.api.limits.call_rates import CallRates
from controlplane.api.limits.networks import network_of
from controlplane.api.limits.precedence import GOES_FIRST
from controlplane.api.limits.stream_counts import StreamCounts
from controlplane.api.limits.waiting import Draw, draw, time_to_wait
from controlplane.api.methods import Method, RateClass, Scope
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.refusals import Overloaded, RateLimited
from controlplane.domain.identity import Caller, CallerKind
from controlplane.domain.namespaces import Quota, Quotas
from controlplane.domain.token_bucket import TokenBuckets
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel

MAX_CALLERS: Final = 10_000
"""Callers whose calls are told apart, if that many are busy within ten seconds; about 3 MB."""

MAX_NAMESPACES: Final = 10_000
"""Namespaces, likewise."""

SHARE_OF_PROBES: Final = 10
"""Streams that need no credential, which are watches of health and reflection, may be one for so
many of the others: everybody who reaches the port can open them, and each takes some 20 KB."""

_NO_QUOTAS: Final = Quotas()
_NOWHERE: Final = (Scope.NONE, Scope.EVERYWHERE)  # about no namespace


class CallLimits:
    """The budgets of this replica.

    The order of a call: `arrived` once it is known who calls, `entered` once it is known where, and
    `left` at its end, if it had got past `arrived`. A caller pays for calls that its namespace
    refuses: it is what keeps it from asking again at once.

    The local administrator of a daemon without authentication has no bounds but the namespace's and
    the replica's. Calls without a credential are charged to the network they come from, not to each
    other.

    Attributes:
        refused_by_class: Calls that were refused since the start, by their class.
        refused_messages: Heartbeat messages that were refused since the start.
    """

    def __init__(
        self,
        read_model: ReadModel,
        clock: Clock,
        *,
        calls_per_second: float,
        streams_per_caller: int,
        beats_per_second: float,
        max_streams: int,
        draw: Draw = draw,
    ) -> None:
        """Take the bounds from settings of the same names; quotas from `read_model`."""
        self.refused_by_class = dict.fromkeys(RateClass, 0)
        self.refused_messages = 0
        self._read_model = read_model
        self._clock = clock
        self._rate = calls_per_second
        self._beats_per_second = beats_per_second
        self._draw = draw
        self._callers = TokenBuckets(MAX_CALLERS)
        self._beating = TokenBuckets(MAX_CALLERS)
        """Of the same callers, for what goes first: other calls must not use that up."""
        self._networks = TokenBuckets(MAX_CALLERS)
        """Apart, because names are hard to get and addresses are not."""
        self._namespaces = TokenBuckets(MAX_NAMESPACES)
        self._rates = CallRates(MAX_NAMESPACES)
        self._streams = StreamCounts(
            per_caller=streams_per_caller, per_replica=max_streams, draw=draw
        )
        self._probes = StreamCounts(
            per_caller=streams_per_caller,
            per_replica=max(max_streams // SHARE_OF_PROBES, 1),
            draw=draw,
        )
        """Apart: who needs no credential must not use up what agents need."""

    def arrived(self, call: Call) -> None:
        """Charge a call to its caller; if it is a stream, count it.

        A stream of the class FREE is charged to nobody, but counted for the network it comes from.

        Raises:
            RateLimited: per `identity` or `address`.
            Overloaded: this replica has as many open streams as it may.
        """
        method = call.method
        try:
            if is_free_stream(method):
                self._probes.open(call, network_of(call.context.peer()), per="address")
                return
            payer = self._charge(call)
            if method.rate_class is RateClass.STREAM:
                self._streams.open(call, payer)
        except (RateLimited, Overloaded):
            self._count_refusal(method)
            raise

    def charge(self, call: Call) -> None:
        """Do what `arrived` does, for a call that is no stream and holds nothing: no `left`.

        Raises:
            RateLimited: per `identity` or `address`.
        """
        try:
            self._charge(call)
        except RateLimited:
            self._count_refusal(call.method)
            raise

    def entered(self, call: Call) -> None:
        """Charge a call to `call.namespace`; if it is a stream, count it there.

        What is about the daemon as a whole is nobody's: the quota of a namespace must not keep
        anybody from changing it.

        Raises:
            RateLimited: per `namespace`.
            NotReady: this replica has not loaded its first snapshot yet.
        """
        method, namespace = call.method, call.namespace
        if method.rate_class is RateClass.FREE or method.scope in _NOWHERE:
            return
        record = self._read_model.access.namespaces.get(namespace)
        quotas = _NO_QUOTAS if record is None else record.quotas
        try:
            self._charge_namespace(method, namespace, quotas.calls_per_second)
            if method.rate_class is RateClass.STREAM and not _waits(method):
                quota = _QUOTA_OF_STREAM.get(method.permission)
                if quota is not None:
                    self._streams.enter(call, quota, namespace, quotas.of(quota))
        except RateLimited:
            self._count_refusal(method)
            raise

    def left(self, call: Call) -> None:
        """Give back what a call has held."""
        if call.method.rate_class is RateClass.STREAM:
            self._streams.close(call)
        elif is_free_stream(call.method):
            self._probes.close(call)

    def beat_budget(self, caller: Caller) -> BeatBudget:
        """Return the budget of a heartbeat stream that begins."""
        if caller.kind is CallerKind.LOCAL_ADMIN:
            return BeatBudget(self._clock)
        return BeatBudget(
            self._clock,
            beats_per_second=self._beats_per_second,
            refused=self._message_refused,
            draw=self._draw,
        )

    @property
    def open_streams(self) -> int:
        """Streams that are open on this replica, but for those of health and reflection."""
        return len(self._streams)

    def streams_of(self, namespace: str) -> int:
        """Return how many heartbeat and task streams are open in a namespace."""
        return self._streams.of(Quota.STREAMS, namespace)

    def watches_of(self, namespace: str) -> int:
        """Return how many watches are open in a namespace."""
        return self._streams.of(Quota.WATCHES, namespace)

    def calls_per_second_of(self, namespace: str) -> float:
        """Return how many calls per second a namespace has made lately, refused ones left out."""
        return self._rates.of(namespace, self._clock.monotonic())

    def _charge(self, call: Call) -> str:
        """Charge a call to its caller; return whose it is, empty for somebody without a bound."""
        caller = call.caller
        if caller.kind is CallerKind.LOCAL_ADMIN:
            return ""
        if caller.kind is CallerKind.ANONYMOUS:
            payer, per, buckets = network_of(call.context.peer()), "address", self._networks
        else:
            first = call.method.name in GOES_FIRST
            buckets = self._beating if first else self._callers
            payer, per = caller.name, "identity"
        wait = buckets.spend(payer, 1, self._rate, self._clock.monotonic())
        if wait:
            raise self._too_fast(self._rate, per, wait)
        return payer

    def _charge_namespace(self, method: Method, namespace: str, rate: float) -> None:
        now = self._clock.monotonic()
        if rate and method.name not in GOES_FIRST:
            wait = self._namespaces.spend(namespace, 1, rate, now)
            if wait:
                raise self._too_fast(rate, "namespace", wait)
        self._rates.count(namespace, now)

    def _too_fast(self, rate: float, per: str, wait: float) -> RateLimited:
        return RateLimited(
            "calls per second",
            limit=round(rate),
            per=per,
            retry_after_seconds=time_to_wait(wait, self._draw),
        )

    def _count_refusal(self, method: Method) -> None:
        self.refused_by_class[method.rate_class] += 1

    def _message_refused(self) -> None:
        self.refused_messages += 1


_QUOTA_OF_STREAM: Final[Mapping[Permission, Quota]] = {
    Permission.REPORT: Quota.STREAMS,  # of agents: heartbeats and tasks
    Permission.READ: Quota.WATCHES,
}


def is_free_stream(method: Method) -> bool:
    """Say whether it is a stream that anybody may open, such as a watch of health."""
    return method.rate_class is RateClass.FREE and method.max_deadline_seconds is None


def _waits(method: Method) -> bool:
    """Say whether it is a unary call that waits: no watch, whatever its class."""
    return method.max_deadline_seconds is not None
