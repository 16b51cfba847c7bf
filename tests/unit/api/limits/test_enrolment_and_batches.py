"""Budgets of those who have no name yet, of those whose credential is wrong, and of batches."""

from typing import Any

import pytest

from controlplane.api.concerns.authentication import authentication
from controlplane.api.context import Call
from controlplane.api.identification import Refusals
from controlplane.api.limits.batches import READ_ENTRIES, WRITE_ENTRIES, cost_of, entries_in
from controlplane.api.limits.call_limits import ENROLL, CallLimits
from controlplane.api.methods import METHODS, RateClass
from controlplane.domain.access.refusals import (
    CredentialInvalid,
    CredentialMissing,
    RateLimited,
    Unauthenticated,
)
from controlplane.domain.identity import ANONYMOUS, Caller
from fleetplane.v1 import policy_service_pb2, registry_service_pb2
from tests.fakes.clock import FakeClock
from tests.fakes.limited_edge import KnownQuotas, somebody

ANN = somebody("ann")
HOME, ELSEWHERE = "ipv4:192.0.2.1:1", "ipv4:192.0.2.2:1"
REGISTER_MANY = "/fleetplane.v1.RegistryService/BatchRegister"
DECIDE_MANY = "/fleetplane.v1.PolicyService/BatchEvaluatePolicy"
GET = "/fleetplane.v1.RegistryService/GetAgent"


class Context:
    """As much of grpc's context as limits ask for."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def peer(self) -> str:
        return self._peer


class World:
    """Limits with a clock that stands."""

    def __init__(self, **bounds: float) -> None:
        self.clock = FakeClock()
        self.quotas = KnownQuotas()
        chosen: dict[str, Any] = {
            "calls_per_second": 1000,
            "streams_per_caller": 3,
            "beats_per_second": 10,
            "max_streams": 1000,
        } | bounds
        self.limits = CallLimits(self.quotas, self.clock, draw=lambda: 0.0, **chosen)

    def arrives(self, name: str, caller: Caller = ANONYMOUS, peer: str = HOME) -> Call:
        context: Any = Context(peer)
        call = Call(METHODS[name], context)
        call.caller = caller
        self.limits.charge(call)
        return call

    def enters(self, name: str, entries: int, namespace: str = "default") -> None:
        call = self.arrives(name, ANN)
        call.namespace, call.entries = namespace, entries
        self.limits.entered(call)


def refused(**expected: str) -> Any:
    return pytest.raises(RateLimited, check=lambda error: error.metadata == expected)


def test_a_network_enrols_a_minutes_worth_at_once_and_then_one_per_second():
    world = World()
    for _ in range(60):
        world.arrives(ENROLL)
    with refused(limit="1", per="address") as error:
        world.arrives(ENROLL)
    assert error.value.retry_after_seconds == pytest.approx(1.0)
    world.arrives(ENROLL, peer=ELSEWHERE)
    world.clock.shift(1.0)
    world.arrives(ENROLL)
    with pytest.raises(RateLimited):
        world.arrives(ENROLL)


def test_enrolments_and_other_calls_without_a_name_do_not_pay_for_each_other():
    world = World(calls_per_second=1, enrolments_per_second=0.1)
    for _ in range(6):
        world.arrives(ENROLL)
    with pytest.raises(RateLimited):
        world.arrives(ENROLL)
    for _ in range(10):
        world.arrives(GET)
    with pytest.raises(RateLimited):
        world.arrives(GET)


def _told(world: World, error: Unauthenticated, peer: str = HOME) -> type[BaseException]:
    """Return how somebody is refused whose credential is refused with `error`."""

    def identify(_call: Call) -> Caller:
        raise error

    before = authentication(identify, Refusals(), world.limits.refused_credential).before
    assert before is not None
    context: Any = Context(peer)
    with pytest.raises((Unauthenticated, RateLimited)) as raised:
        before(Call(METHODS[GET], context))
    return raised.type


def test_a_network_with_too_many_wrong_credentials_is_told_to_wait_and_others_are_not():
    world = World(wrong_credentials_per_second=2)
    wrong = CredentialInvalid("the API token", "it is not known here")
    assert {_told(world, wrong) for _ in range(20)} == {CredentialInvalid}
    assert _told(world, wrong) is RateLimited
    assert _told(world, wrong, ELSEWHERE) is CredentialInvalid
    world.arrives(GET, ANN)  # a good credential of the same network
    world.clock.shift(0.5)
    assert _told(world, wrong) is CredentialInvalid


def test_no_credential_is_not_a_wrong_one():
    world = World(wrong_credentials_per_second=0.1)
    assert {_told(world, CredentialMissing()) for _ in range(50)} == {CredentialMissing}


@pytest.mark.parametrize(
    ("name", "entries", "cost"),
    [
        (REGISTER_MANY, 1, 1.0),
        (REGISTER_MANY, WRITE_ENTRIES, 1.0),
        (REGISTER_MANY, 500, 500 / WRITE_ENTRIES),
        (DECIDE_MANY, READ_ENTRIES, 1.0),
        (DECIDE_MANY, 100, 100 / READ_ENTRIES),
        (GET, 500, 1.0),
    ],
)
def test_a_batch_costs_what_it_saves_less_than_its_calls(name: str, entries: int, cost: float):
    assert cost_of(METHODS[name], entries) == cost


def test_a_namespace_pays_for_the_entries_of_a_batch():
    world = World()
    world.quotas.allow("small", calls_per_second=10)
    world.enters(REGISTER_MANY, 50 * WRITE_ENTRIES, "small")
    world.enters(REGISTER_MANY, 50 * WRITE_ENTRIES, "small")
    with refused(limit="10", per="namespace") as error:
        world.enters(REGISTER_MANY, 50 * WRITE_ENTRIES, "small")
    assert error.value.retry_after_seconds == pytest.approx(5.0)


def test_a_caller_pays_for_the_entries_of_a_batch():
    world = World(calls_per_second=10)
    for _ in range(2):
        world.enters(REGISTER_MANY, 50 * WRITE_ENTRIES)
    with refused(limit="10", per="identity"):
        world.enters(REGISTER_MANY, 1)


def test_entries_are_counted_in_the_lists_of_a_request():
    register = registry_service_pb2.BatchRegisterRequest(
        requests=[registry_service_pb2.RegisterRequest() for _ in range(3)]
    )
    decide = policy_service_pb2.BatchEvaluatePolicyRequest(
        items=[policy_service_pb2.EvaluationItem() for _ in range(2)]
    )
    assert (entries_in(register), entries_in(decide)) == (3, 2)
    assert entries_in(registry_service_pb2.GetAgentRequest()) == 0


def test_every_batch_is_about_a_namespace():
    """The gate counts the entries on the way in there."""
    batches = [m for m in METHODS.values() if m.rate_class is RateClass.BATCH]
    assert {method.scope.value for method in batches} == {"namespace"}
