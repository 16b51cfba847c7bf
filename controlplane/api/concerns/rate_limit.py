"""Charges calls to whoever makes them."""

from controlplane.api.context import Call
from controlplane.api.limits.call_limits import CallLimits, is_free_stream
from controlplane.api.methods import Method, RateClass
from controlplane.api.pipeline import Concern, Outcome


def rate_limit(limits: CallLimits, *, authenticates: bool) -> Concern:
    """Return the concern that charges callers and counts open streams.

    It belongs directly inside `authentication`. The namespace is charged later, by the gate
    (`CallLimits.entered`), because only the request says which one it is.

    Args:
        limits: The budgets.
        authenticates: Whether callers are told apart. If not, only streams are looked at.
    """

    def after(call: Call, _outcome: Outcome) -> None:
        limits.left(call)

    def wanted(method: Method) -> bool:
        if method.rate_class is RateClass.FREE:
            return is_free_stream(method)
        return authenticates or method.rate_class is RateClass.STREAM

    return Concern(name="rate_limit", before=limits.arrived, after=after, wanted=wanted)
