"""Establishes who calls."""

from collections.abc import Callable

from controlplane.api.context import Call
from controlplane.api.pipeline import Concern
from controlplane.domain.identity import LOCAL_ADMIN, Caller


def everybody_is_local_admin(_call: Call) -> Caller:
    """Return the local administrator: what a daemon without authentication makes of everybody."""
    return LOCAL_ADMIN


def authentication(
    identify: Callable[[Call], Caller] = everybody_is_local_admin,
) -> Concern:
    """Return the concern that sets `call.caller`.

    Args:
        identify: Says who calls; refuses by raising a `DomainError`.
    """

    def before(call: Call) -> None:
        call.caller = identify(call)

    return Concern(name="authentication", before=before)
