"""Charges calls to whoever makes them."""

from controlplane.api.context import Call
from controlplane.api.limits.call_limits import CallLimits, is_free_stream
from controlplane.api.methods import Method, RateClass
from controlplane.api.pipeline import Concern, Outcome


def rate_limit(limits: CallLimits, *, authenticates: bool) -> tuple[Concern, Concern]:
    """Return the concerns that charge callers and count open streams; a method has one of them.

    They belong directly inside `authentication`. The namespace is charged later, by the gate
    (`CallLimits.entered`), because only the request says which one it is.

    Args:
        limits: The budgets.
        authenticates: Whether callers are told apart. If not, only streams are looked at.
    """

    def after(call: Call, _outcome: Outcome) -> None:
        limits.left(call)

    def is_charged(method: Method) -> bool:
        passes = method.rate_class is RateClass.FREE
        return authenticates and not passes and not _is_stream(method)

    return (
        Concern(name="rate_limit", before=limits.charge, wanted=is_charged),
        Concern(name="stream_limit", before=limits.arrived, after=after, wanted=_is_stream),
    )


def _is_stream(method: Method) -> bool:
    return method.rate_class is RateClass.STREAM or is_free_stream(method)
