"""Which calls go before others when there is not room for all."""

from typing import Final

from controlplane.api.methods import Method, RateClass

HEARTBEAT: Final = "/fleetplane.v1.RegistryService/Heartbeat"
"""Without it agents are given up, and their work is done twice: it makes overload worse."""

EMERGENCY_STOP: Final = "/fleetplane.v1.LifecycleService/EmergencyStop"
"""It ends what overloads us, and is asked for by people."""

GOES_FIRST: Final = frozenset({HEARTBEAT, EMERGENCY_STOP})
"""Never refused for what others do: neither for the lag nor for the rate of the namespace."""

_SHED_AT: Final = {
    RateClass.STREAM: 1.0,
    RateClass.BATCH: 1.0,
    RateClass.READ: 2.0,
    RateClass.WRITE: 4.0,
}


def shed_at(method: Method) -> float | None:
    """Return at how many times the threshold of overload a method is refused; None: never.

    What costs most or can wait best goes first: new streams, batches and lists at once, other reads
    at twice the threshold (their callers have an answer from before), writes at four times.
    """
    if method.name in GOES_FIRST:
        return None
    if method.rate_class is RateClass.READ and _lists(method):
        return 1.0
    return _SHED_AT.get(method.rate_class)


def _lists(method: Method) -> bool:
    return method.name.rpartition("/")[2].startswith("List")
