"""Tells the audit where a call comes from, and which calls were refused."""

import dataclasses
from typing import Final

import grpc

from controlplane.api.context import Call
from controlplane.api.limits.networks import network_of
from controlplane.api.methods import Method
from controlplane.api.pipeline import Concern, Outcome
from controlplane.domain.access.permissions import EVERYWHERE
from controlplane.services.audit.attribution import enter_origin
from controlplane.services.audit.refused import Refusal, RefusedCalls

_NAMESPACE_NOT_FOUND: Final = "NAMESPACE_NOT_FOUND"
_PERMISSION_DENIED: Final = "PERMISSION_DENIED"

_REFUSALS: Final = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""Codes of calls that were not let do what they would have done."""


def audit() -> Concern:
    """Return the concern that says where changes come from.

    Methods that are audited also find the address in their caller.
    """
    return Concern(name="audit", before=_enter, wanted=_is_change)


def refusals(refused: RefusedCalls) -> Concern:
    """Return the concern that notes changes which were refused. Belongs outside `status`."""

    def after(call: Call, outcome: Outcome) -> None:
        if outcome.reason and _is_refusal(call, outcome):
            refused.note(_refusal(call, outcome), call.request_id)

    return Concern(name="refusals", after=after, wanted=_is_change)


def _is_change(method: Method) -> bool:
    return method.is_change


def _enter(call: Call) -> None:
    enter_origin(call)
    if call.method.audited:
        call.caller = dataclasses.replace(call.caller, address=call.address)


def _is_refusal(call: Call, outcome: Outcome) -> bool:
    """Return whether a call was refused, rather than wrong or too early.

    What is wrong - a field, a revision, a name that is taken - is a mistake, not an attempt. The
    state of things refuses too; of tasks it does so all day, which their histories tell better.
    """
    if outcome.code is grpc.StatusCode.FAILED_PRECONDITION:
        return call.method.audited
    return outcome.code in _REFUSALS or outcome.reason == _NAMESPACE_NOT_FOUND


def _refusal(call: Call, outcome: Outcome) -> Refusal:
    # Who was let in, or was told that he lacks the role, may know of the namespace.
    namespace = call.namespace
    if not namespace and outcome.reason == _PERMISSION_DENIED:
        namespace = call.asked
    return Refusal(
        namespace="" if namespace == EVERYWHERE else namespace,
        actor=call.caller.name,
        caller_kind=call.caller_kind,
        network=network_of(call.address),
        method=call.method.name.rpartition("/")[2],
        reason=outcome.reason,
    )
