"""Who is refused at which lag."""

from typing import Any

import pytest

from controlplane.api.context import Call
from controlplane.api.limits.admission import Admission
from controlplane.api.limits.precedence import EMERGENCY_STOP, HEARTBEAT, shed_at
from controlplane.api.methods import METHODS, RateClass
from controlplane.domain.access.refusals import Overloaded
from tests.fakes.limited_edge import FixedLag

NEVER = {HEARTBEAT, EMERGENCY_STOP}
THRESHOLD = 0.5


def refused_at(lag: float, admission: Admission | None = None) -> set[str]:
    fixed = FixedLag()
    fixed.seconds = lag
    admission = admission or Admission(fixed, overload_lag_seconds=THRESHOLD)
    refused = set()
    nothing: Any = None
    for name, method in METHODS.items():
        try:
            admission.admit(Call(method, nothing))
        except Overloaded:
            refused.add(name)
    return refused


def of(*classes: RateClass) -> set[str]:
    return {name for name, method in METHODS.items() if method.rate_class in classes} - NEVER


def lists() -> set[str]:
    return {name for name in of(RateClass.READ) if name.rpartition("/")[2].startswith("List")}


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (0.0, set()),
        (0.99, set()),
        (1.0, of(RateClass.STREAM, RateClass.BATCH) | lists()),
        (1.99, of(RateClass.STREAM, RateClass.BATCH) | lists()),
        (2.0, of(RateClass.STREAM, RateClass.BATCH, RateClass.READ)),
        (3.99, of(RateClass.STREAM, RateClass.BATCH, RateClass.READ)),
        (4.0, of(RateClass.STREAM, RateClass.BATCH, RateClass.READ, RateClass.WRITE)),
        (1000.0, of(RateClass.STREAM, RateClass.BATCH, RateClass.READ, RateClass.WRITE)),
    ],
)
def test_what_can_wait_is_refused_first(times, expected):
    assert refused_at(times * THRESHOLD) == expected


def test_names_that_go_first_are_those_of_methods():
    assert METHODS.keys() >= NEVER
    assert {name for name in METHODS if shed_at(METHODS[name]) is None} == NEVER | {
        name for name, method in METHODS.items() if method.rate_class is RateClass.FREE
    }


def test_refused_callers_come_back_apart_and_are_counted():
    lag = FixedLag()
    lag.seconds = THRESHOLD
    waits = []
    nothing: Any = None
    for drawn in ([0.0], [0.5], [0.99]):
        admission = Admission(lag, overload_lag_seconds=THRESHOLD, draw=drawn.pop)
        with pytest.raises(Overloaded) as refused:
            admission.admit(Call(METHODS["/fleetplane.v1.RegistryService/WatchAgents"], nothing))
        waits.append(refused.value.retry_after_seconds)
        assert admission.refused_by_class[RateClass.STREAM] == 1
    assert waits == [1.0, 1.5, 1.99]
