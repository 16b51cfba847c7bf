"""Counts calls until their status was sent, so that a shutdown can wait for them."""

from controlplane.api.context import Call
from controlplane.api.drain import Drain
from controlplane.api.methods import Method
from controlplane.api.pipeline import Concern


def in_flight(drain: Drain) -> Concern:
    """Return the concern that tells `drain` about every call but health and reflection."""

    def before(_call: Call) -> None:
        drain.enter()

    return Concern(name="in_flight", before=before, wanted=_is_awaited)


def _is_awaited(method: Method) -> bool:
    return not method.is_infrastructure
