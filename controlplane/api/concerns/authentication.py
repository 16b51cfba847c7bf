"""Establishes who calls."""

from collections.abc import Callable

from controlplane.api.context import Call
from controlplane.api.identification import Refusals
from controlplane.api.pipeline import Concern, Outcome
from controlplane.domain.access.refusals import CredentialMissing, Unauthenticated
from controlplane.domain.errors import DomainError
from controlplane.domain.identity import ANONYMOUS, LOCAL_ADMIN, Caller


def everybody_is_local_admin(_call: Call) -> Caller:
    """Return the local administrator: what a daemon without authentication makes of everybody."""
    return LOCAL_ADMIN


def _not_counted(_call: Call) -> None:
    """Be told about a credential that is not good, and do nothing."""


def authentication(
    identify: Callable[[Call], Caller] = everybody_is_local_admin,
    refusals: Refusals | None = None,
    wrong: Callable[[Call], None] = _not_counted,
) -> Concern:
    """Return the concern that sets `call.caller`.

    Args:
        identify: Says who calls; refuses by raising a `DomainError`.
        refusals: Told about every call that is refused, here or further inside. None: nobody is.
        wrong: Told about every call whose credential is not good; may refuse it for that.
    """
    if refusals is None:
        return Concern(name="authentication", before=_setting_caller(identify))

    def before(call: Call) -> None:
        try:
            call.caller = identify(call)
        except DomainError as refusal:
            call.caller = ANONYMOUS
            refusals.note(call, refusal)
            if isinstance(refusal, Unauthenticated) and not isinstance(refusal, CredentialMissing):
                wrong(call)
            raise

    async def refuse(call: Call, outcome: Outcome) -> None:
        refusals.note(call, outcome.error)

    return Concern(name="authentication", before=before, refuse=refuse)


def _setting_caller(identify: Callable[[Call], Caller]) -> Callable[[Call], None]:
    def before(call: Call) -> None:
        call.caller = identify(call)

    return before
