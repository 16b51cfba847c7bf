"""Completes the caller with what the audit must show."""

import dataclasses

from controlplane.api.context import Call
from controlplane.api.methods import Method
from controlplane.api.pipeline import Concern


def audit() -> Concern:
    """Return the concern that adds the peer's address to the caller of audited methods."""
    return Concern(name="audit", before=_add_address, wanted=_is_audited)


def _is_audited(method: Method) -> bool:
    return method.audited


def _add_address(call: Call) -> None:
    call.caller = dataclasses.replace(call.caller, address=call.context.peer())
