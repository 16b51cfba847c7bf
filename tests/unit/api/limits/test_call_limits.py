"""Budgets of callers, namespaces and streams, without a server."""

from collections.abc import Callable
from typing import Any

import pytest

from controlplane.api.concerns.rate_limit import rate_limit
from controlplane.api.context import Call
from controlplane.api.limits.call_limits import CallLimits
from controlplane.api.limits.stream_counts import RETRY_SECONDS
from controlplane.api.methods import METHODS, Method, RateClass
from controlplane.domain.access.refusals import Overloaded, RateLimited
from controlplane.domain.identity import ANONYMOUS, LOCAL_ADMIN, Caller
from tests.fakes.clock import FakeClock
from tests.fakes.limited_edge import KnownQuotas, somebody

ANN, BEN = somebody("ann"), somebody("ben")
GET = "/fleetplane.v1.RegistryService/GetAgent"
HEARTBEAT = "/fleetplane.v1.RegistryService/Heartbeat"
WATCH = "/fleetplane.v1.RegistryService/WatchAgents"
TASKS = "/fleetplane.v1.TaskService/WatchTasks"
DRAIN = "/fleetplane.v1.LifecycleService/GetDrain"
STOP = "/fleetplane.v1.LifecycleService/EmergencyStop"
DIAGNOSIS = "/grpc.channelz.v1.Channelz/GetServers"
HEALTH = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
CHANGE_NAMESPACE = "/fleetplane.v1.NamespaceService/UpdateNamespace"
WHO_AM_I = "/fleetplane.v1.IdentityService/WhoAmI"
BURST = 50
"""Ten seconds' worth of 5 calls per second."""


class Context:
    """As much of grpc's context as budgets look at."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def peer(self) -> str:
        return self._peer


class World:
    """Limits of small size, a clock that stands, and calls in the order of the pipeline."""

    def __init__(self, jitter: float = 0.0, **bounds: Any) -> None:
        self.clock = FakeClock()
        self.quotas = KnownQuotas()
        chosen = {
            "calls_per_second": 5,
            "streams_per_caller": 3,
            "beats_per_second": 10,
            "max_streams": 1000,
        } | bounds
        self.limits = CallLimits(self.quotas, self.clock, draw=lambda: jitter, **chosen)

    def call(
        self,
        name: str = GET,
        caller: Caller = ANN,
        namespace: str = "default",
        peer: str = "ipv4:192.0.2.1:1",
    ) -> Call:
        """Make a call; one that is refused by its namespace has ended."""
        context: Any = Context(peer)
        call = Call(METHODS[name], context)
        call.caller = caller
        self.limits.arrived(call)
        call.namespace = namespace
        try:
            self.limits.entered(call)
        except BaseException:
            self.limits.left(call)
            raise
        return call

    def calls_until_refused(self, *args: Any, **kwargs: Any) -> tuple[int, RateLimited]:
        for made in range(10_000):
            try:
                self.limits.left(self.call(*args, **kwargs))
            except RateLimited as refusal:
                return made, refusal
        raise AssertionError("never refused")


def test_a_caller_has_ten_seconds_worth_at_once_and_learns_when_there_is_more():
    world = World()
    made, refusal = world.calls_until_refused()
    assert made == BURST
    assert refusal.metadata == {"limit": "5", "per": "identity"}
    assert refusal.message == "calls per second per identity is limited to 5"
    assert refusal.retry_after_seconds == pytest.approx(0.2)
    assert refusal.retry_after_seconds is not None
    world.clock.shift(refusal.retry_after_seconds)
    world.call()
    with pytest.raises(RateLimited):
        world.call()


@pytest.mark.parametrize(("jitter", "least", "most"), [(0.0, 0.2, 0.2), (0.999, 0.219, 0.22)])
def test_the_time_to_wait_is_spread_by_up_to_a_tenth_and_never_too_short(jitter, least, most):
    _, refusal = World(jitter=jitter).calls_until_refused()
    assert refusal.retry_after_seconds is not None
    assert least <= refusal.retry_after_seconds <= most


def test_callers_have_budgets_of_their_own():
    world = World()
    world.calls_until_refused(caller=ANN)
    assert world.calls_until_refused(caller=BEN)[0] == BURST


def test_calls_without_a_credential_are_charged_to_their_network():
    world = World()
    _, refusal = world.calls_until_refused(WHO_AM_I, ANONYMOUS, peer="ipv4:192.0.2.1:1")
    assert refusal.metadata["per"] == "address"
    with pytest.raises(RateLimited):
        world.call(WHO_AM_I, ANONYMOUS, peer="ipv4:192.0.2.1:2")
    world.call(WHO_AM_I, ANONYMOUS, peer="ipv4:192.0.2.9:1")
    world.call(WHO_AM_I, ANN, peer="ipv4:192.0.2.1:3")


def test_the_local_administrator_has_only_the_bounds_of_namespace_and_replica():
    world = World(max_streams=100)
    for _ in range(BURST * 2):
        world.call(GET, LOCAL_ADMIN)
    for _ in range(90):
        world.call(WATCH, LOCAL_ADMIN)
    with pytest.raises(Overloaded):
        world.call(WATCH, LOCAL_ADMIN)
    world.limits.beat_budget(LOCAL_ADMIN).spend(1_000_000)
    world.quotas.allow("small", calls_per_second=1)
    made, refusal = world.calls_until_refused(GET, LOCAL_ADMIN, "small")
    assert (made, refusal.metadata["per"]) == (10, "namespace")


def _looked_at(*, authenticates: bool) -> Callable[[Method], bool]:
    """Return what says whether any of the concerns of limits is wanted for a method."""
    concerns = rate_limit(World().limits, authenticates=authenticates)
    return lambda method: any(concern.wanted(method) for concern in concerns)


def test_nothing_is_charged_for_health_and_without_credentials_only_streams_are_looked_at():
    with_names = _looked_at(authenticates=True)
    without = _looked_at(authenticates=False)
    assert [with_names(METHODS[name]) for name in (HEALTH, GET, WATCH)] == [False, True, True]
    assert [without(METHODS[name]) for name in (HEALTH, GET, WATCH)] == [False, False, True]
    world = World()
    call = world.call()
    call.method, call.namespace = METHODS[DIAGNOSIS], "*"
    world.limits.entered(call)
    assert world.limits.calls_per_second_of("*") == 0


def test_streams_that_need_no_credential_are_bounded_per_network_and_apart_from_the_others():
    world = World(streams_per_caller=3, max_streams=50)
    opened = [world.call(HEALTH_WATCH, ANONYMOUS) for _ in range(3)]
    with pytest.raises(RateLimited) as refused:
        world.call(HEALTH_WATCH, ANONYMOUS, peer="ipv4:192.0.2.1:2")
    assert refused.value.metadata["per"] == "address"
    for network in (7, 8):
        peer = f"ipv4:192.0.2.{network}:1"
        opened.append(world.call(HEALTH_WATCH, ANONYMOUS, peer=peer))
    with pytest.raises(Overloaded):
        world.call(HEALTH_WATCH, ANONYMOUS, peer="ipv4:192.0.2.9:1")
    world.call(WATCH)
    assert world.limits.open_streams == 1
    for call in opened:
        world.limits.left(call)
    world.call(HEALTH_WATCH, ANONYMOUS)


@pytest.mark.parametrize("authenticates", [True, False])
def test_watches_of_health_are_counted_and_its_checks_are_not(authenticates):
    wanted = _looked_at(authenticates=authenticates)
    assert [wanted(METHODS[name]) for name in (HEALTH, HEALTH_WATCH)] == [False, True]


def test_a_namespace_has_a_budget_that_all_its_callers_share():
    world = World(calls_per_second=1000)
    world.quotas.allow("small", calls_per_second=2)
    made, refusal = world.calls_until_refused(caller=ANN, namespace="small")
    assert made == 20
    assert refusal.metadata == {"limit": "2", "per": "namespace"}
    assert refusal.retry_after_seconds == pytest.approx(0.5)
    with pytest.raises(RateLimited):
        world.call(caller=BEN, namespace="small")
    world.call(caller=BEN, namespace="large")


def test_a_quota_that_is_raised_counts_at_once():
    world = World(calls_per_second=1000)
    world.quotas.allow("small", calls_per_second=1)
    world.calls_until_refused(namespace="small")
    world.quotas.allow("small", calls_per_second=100)
    world.clock.shift(0.01)
    world.call(namespace="small")
    world.quotas.allow("small")
    for _ in range(100):
        world.call(namespace="small")


def test_a_namespace_that_is_used_up_keeps_out_neither_agents_nor_an_emergency_stop():
    world = World(calls_per_second=1000)
    world.quotas.allow("small", calls_per_second=1)
    world.calls_until_refused(namespace="small")
    world.call(HEARTBEAT, BEN, "small")
    world.call(STOP, BEN, "small")
    with pytest.raises(RateLimited):
        world.call(TASKS, BEN, "small")


def test_a_namespace_that_is_used_up_can_be_given_a_larger_quota():
    world = World(calls_per_second=1000)
    world.quotas.allow("small", calls_per_second=1)
    world.calls_until_refused(namespace="small")
    world.call(CHANGE_NAMESPACE, BEN, "small")


def test_an_agent_that_has_called_too_much_can_still_open_its_heartbeat():
    world = World()
    world.calls_until_refused(caller=ANN)
    world.call(HEARTBEAT, ANN)


def test_a_caller_that_opens_heartbeats_without_end_is_refused_as_well():
    world = World()
    made, refusal = world.calls_until_refused(HEARTBEAT, ANN)
    assert (made, refusal.metadata["per"]) == (BURST, "identity")


def test_a_caller_pays_for_what_its_namespace_refuses():
    world = World()
    world.quotas.allow("small", calls_per_second=1)
    pers = []
    for _ in range(60):
        try:
            world.call(namespace="small")
        except RateLimited as refusal:
            pers.append(refusal.metadata["per"])
    assert pers == ["namespace"] * 40 + ["identity"] * 10


def test_streams_are_bounded_per_caller_and_given_back_at_their_end():
    world = World()
    opened = [world.call(WATCH) for _ in range(3)]
    with pytest.raises(RateLimited) as refused:
        world.call(WATCH)
    assert refused.value.metadata == {"limit": "3", "per": "identity"}
    assert refused.value.retry_after_seconds == RETRY_SECONDS
    world.call(WATCH, BEN)
    world.limits.left(opened.pop())
    world.call(WATCH)


@pytest.mark.parametrize(
    ("name", "other", "quota"), [(TASKS, WATCH, "streams"), (WATCH, TASKS, "watches")]
)
def test_streams_and_watches_of_a_namespace_are_bounded_apart(name, other, quota):
    world = World(streams_per_caller=100)
    world.quotas.allow("small", **{quota: 2})
    first = world.call(name, ANN, "small")
    world.call(name, BEN, "small")
    with pytest.raises(RateLimited) as refused:
        world.call(name, BEN, "small")
    assert refused.value.metadata == {"limit": "2", "per": "namespace", "quota": quota}
    world.call(other, BEN, "small")
    world.call(name, BEN, "large")
    world.limits.left(first)
    world.call(name, BEN, "small")


def test_heartbeats_count_as_streams_of_their_namespace():
    world = World()
    world.call(HEARTBEAT, ANN, "small")
    world.call(TASKS, ANN, "small")
    world.call(WATCH, ANN, "small")
    assert (world.limits.streams_of("small"), world.limits.watches_of("small")) == (2, 1)


def test_a_call_that_waits_is_no_watch_but_counts_for_its_caller():
    world = World()
    world.quotas.allow("small", watches=1)
    for _ in range(3):
        world.call(DRAIN, ANN, "small")
    assert world.limits.watches_of("small") == 0
    with pytest.raises(RateLimited):
        world.call(DRAIN, ANN, "small")


def test_a_stream_that_enters_twice_is_counted_once():
    world = World()
    call = world.call(WATCH)
    world.limits.entered(call)
    assert world.limits.watches_of("default") == 1
    world.limits.left(call)
    assert world.limits.watches_of("default") == 0


def test_a_tenth_of_the_replicas_streams_is_kept_for_heartbeats():
    world = World(max_streams=20, streams_per_caller=1000, calls_per_second=1000)
    watches = [world.call(WATCH) for _ in range(18)]
    with pytest.raises(Overloaded) as refused:
        world.call(WATCH)
    assert refused.value.retry_after_seconds is not None
    heartbeats = [world.call(HEARTBEAT) for _ in range(2)]
    with pytest.raises(Overloaded):
        world.call(HEARTBEAT)
    world.limits.left(watches.pop())
    heartbeats.append(world.call(HEARTBEAT))
    world.limits.left(heartbeats.pop())
    world.call(WATCH)


def test_heartbeats_may_take_whatever_others_leave():
    world = World(max_streams=20, streams_per_caller=1000)
    for _ in range(19):
        world.call(HEARTBEAT)
    world.call(WATCH)
    with pytest.raises(Overloaded):
        world.call(WATCH)


def test_nothing_is_remembered_of_streams_that_have_ended():
    world = World(streams_per_caller=1000)
    opened = [world.call(name, ANN, "small") for name in (WATCH, TASKS, HEARTBEAT, DRAIN) * 5]
    assert world.limits.open_streams == 20
    for call in opened:
        world.limits.left(call)
    counts = world.limits._streams
    assert (len(counts), counts._by_payer, counts._by_place, counts._others) == (0, {}, {}, 0)


def test_refusals_are_counted_by_class():
    world = World()
    world.calls_until_refused()
    with pytest.raises(RateLimited):
        world.call(WATCH)
    assert world.limits.refused_by_class == {
        RateClass.FREE: 0,
        RateClass.READ: 1,
        RateClass.WRITE: 0,
        RateClass.BATCH: 0,
        RateClass.STREAM: 1,
    }


def test_the_rate_of_a_namespace_is_that_of_the_last_seconds():
    world = World(calls_per_second=1000)
    assert world.limits.calls_per_second_of("default") == 0
    for _ in range(100):
        world.clock.shift(0.1)
        world.call()
    assert world.limits.calls_per_second_of("default") == pytest.approx(10, rel=0.05)
    assert world.limits.calls_per_second_of("other") == 0
    world.clock.shift(4)
    assert 0 < world.limits.calls_per_second_of("default") < 10
    world.clock.shift(30)
    assert world.limits.calls_per_second_of("default") == 0


def test_rates_of_more_namespaces_than_are_told_apart_are_not_counted(monkeypatch):
    monkeypatch.setattr("controlplane.api.limits.call_limits.MAX_NAMESPACES", 10)
    world = World(calls_per_second=1000)
    for number in range(30):
        world.call(namespace=f"n-{number}")
    assert world.limits.calls_per_second_of("n-9") > 0
    assert world.limits.calls_per_second_of("n-10") == 0
    assert len(world.limits._rates._counts) == 10
