"""Limits what one caller and one namespace may ask of this replica."""

from collections.abc import Mapping
from typing import Final

from controlplane.api.context import Call
from controlplane.api.limits.batches import cost_of
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

ENROLL: Final = "/fleetplane.v1.IdentityService/Enroll"

ENROLMENTS_PER_SECOND: Final = 1.0
"""Of one network: what a fleet needs that grows. A signature costs a millisecond, and whoever has
no certificate yet is nobody."""

ENROLMENT_BURST_SECONDS: Final = 60.0
"""At once as much as in a minute: a deployment starts all of its agents behind one address."""

WRONG_CREDENTIALS_PER_SECOND: Final = 10.0
"""Of one network: a fleet whose token has ended says so often enough to be noticed."""

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
        enrolments_per_second: float = ENROLMENTS_PER_SECOND,
        wrong_credentials_per_second: float = WRONG_CREDENTIALS_PER_SECOND,
        draw: Draw = draw,
    ) -> None:
        """Take the bounds from settings of the same names; quotas from `read_model`."""
        self.refused_by_class = dict.fromkeys(RateClass, 0)
        self.refused_messages = 0
        self._read_model = read_model
        self._clock = clock
        self._rate = calls_per_second
        self._enrolments_per_second = enrolments_per_second
        self._wrong_per_second = wrong_credentials_per_second
        self._beats_per_second = beats_per_second
        self._draw = draw
        self._callers = TokenBuckets(MAX_CALLERS)
        self._beating = TokenBuckets(MAX_CALLERS)
        """Of the same callers, for what goes first: other calls must not use that up."""
        self._networks = TokenBuckets(MAX_CALLERS)
        """Apart, because names are hard to get and addresses are not."""
        self._enrolling = TokenBuckets(MAX_CALLERS, burst_seconds=ENROLMENT_BURST_SECONDS)
        self._wrong = TokenBuckets(MAX_CALLERS)
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

    def refused_credential(self, call: Call) -> None:
        """Charge a credential that is not good to the network that it comes from.

        Good ones are never refused for the others: nobody can shut his neighbours out.

        Raises:
            RateLimited: per `address`; to be told instead of what is wrong with the credential.
        """
        rate = self._wrong_per_second
        payer = network_of(call.context.peer())
        wait = self._wrong.spend(payer, 1, rate, self._clock.monotonic())
        if wait:
            self._count_refusal(call.method)
            raise self._too_fast(rate, "address", wait, "wrong credentials per second")

    def entered(self, call: Call) -> None:
        """Charge a call to `call.namespace`; if it is a stream, count it there.

        What a batch costs beyond a call is charged to its caller here as well, because it is not
        known before.

        What is about the daemon as a whole is nobody's: the quota of a namespace must not keep
        anybody from changing it.

        Raises:
            RateLimited: per `namespace`, for a batch also per `identity`.
            NotReady: this replica has not loaded its first snapshot yet.
        """
        method, namespace = call.method, call.namespace
        if method.rate_class is RateClass.FREE or method.scope in _NOWHERE:
            return
        record = self._read_model.access.namespaces.get(namespace)
        quotas = _NO_QUOTAS if record is None else record.quotas
        try:
            cost = 1.0
            if method.rate_class is RateClass.BATCH:
                cost = cost_of(method, call.entries)
                if cost > 1:
                    self._charge(call, cost - 1)
            self._charge_namespace(method, namespace, quotas.calls_per_second, cost)
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

    def _charge(self, call: Call, cost: float = 1.0) -> str:
        """Charge a call to its caller; return whose it is, empty for somebody without a bound."""
        caller, rate = call.caller, self._rate
        if caller.kind is CallerKind.LOCAL_ADMIN:
            return ""
        what = "calls per second"
        if caller.kind is CallerKind.ANONYMOUS:
            payer, per, buckets = network_of(call.context.peer()), "address", self._networks
            if call.method.name == ENROLL:
                buckets, rate, what = (
                    self._enrolling,
                    self._enrolments_per_second,
                    "enrolments per second",
                )
        else:
            first = call.method.name in GOES_FIRST
            buckets = self._beating if first else self._callers
            payer, per = caller.name, "identity"
        wait = buckets.spend(payer, cost, rate, self._clock.monotonic())
        if wait:
            raise self._too_fast(rate, per, wait, what)
        return payer

    def _charge_namespace(self, method: Method, namespace: str, rate: float, cost: float) -> None:
        now = self._clock.monotonic()
        if rate and method.name not in GOES_FIRST:
            wait = self._namespaces.spend(namespace, cost, rate, now)
            if wait:
                raise self._too_fast(rate, "namespace", wait)
        self._rates.count(namespace, now)

    def _too_fast(
        self, rate: float, per: str, wait: float, what: str = "calls per second"
    ) -> RateLimited:
        return RateLimited(
            what,
            limit=max(1, round(rate)),
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
    Permission.AUDIT: Quota.WATCHES,
}


def is_free_stream(method: Method) -> bool:
    """Say whether it is a stream that anybody may open, such as a watch of health."""
    return method.rate_class is RateClass.FREE and method.max_deadline_seconds is None


def _waits(method: Method) -> bool:
    """Say whether it is a unary call that waits: no watch, whatever its class."""
    return method.max_deadline_seconds is not None
