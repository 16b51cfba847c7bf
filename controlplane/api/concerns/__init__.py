"""What happens around every call, as one list.

The order, outermost first, and why:

1. `in_flight` counts the call before anything can fail, so that a shutdown misses none.
2. `request_id` comes next: everything that is logged or answered from here on carries it.
3. `access_log` and `refusals` are outside of `status`, because they report the final code.
4. `status` maps every error of the concerns and the handler inside it; it alone aborts.
5. `admission` refuses what can wait, before anything is spent on it.
6. `authentication` precedes all that depends on who calls. It may refuse, and hears of every
   refusal further inside.
7. `rate_limit` charges whoever was recognised.
8. `deadline` bounds the handler, not the answering of errors outside it.
9. `audit` needs the caller.
"""

from controlplane.api.concerns.access_log import access_log
from controlplane.api.concerns.admission import admission
from controlplane.api.concerns.audit import audit, refusals
from controlplane.api.concerns.authentication import authentication
from controlplane.api.concerns.deadline import deadline
from controlplane.api.concerns.in_flight import in_flight
from controlplane.api.concerns.rate_limit import rate_limit
from controlplane.api.concerns.request_id import request_id
from controlplane.api.concerns.status import status
from controlplane.api.drain import Drain
from controlplane.api.identification import Identification
from controlplane.api.limits.admission import Admission
from controlplane.api.limits.call_limits import CallLimits
from controlplane.api.limits.tarpit import Tarpit
from controlplane.api.pipeline import Concern
from controlplane.services.audit.refused import RefusedCalls

__all__ = [
    "access_log",
    "admission",
    "audit",
    "authentication",
    "deadline",
    "in_flight",
    "rate_limit",
    "refusals",
    "request_id",
    "standard_concerns",
    "status",
]


def standard_concerns(
    drain: Drain,
    identification: Identification | None = None,
    *,
    limits: CallLimits | None = None,
    admits: Admission | None = None,
    refused: RefusedCalls | None = None,
) -> tuple[Concern, ...]:
    """Return the concerns of the daemon, outermost first.

    Args:
        drain: Counts the calls.
        identification: Says who calls. Without one that authenticates, everybody is the local
            administrator.
        limits: What callers may ask; None: anything.
        admits: What is refused under load; None: nothing.
        refused: Notes changes that were refused; None: nobody does.
    """
    authenticates = identification is not None and identification.authenticates
    who = authentication()
    if identification is not None and identification.authenticates:
        who = authentication(identification, identification.refusals)
        if limits is not None:
            wrong = limits.refused_credential
            who = authentication(identification, identification.refusals, wrong)
    return (
        in_flight(drain),
        request_id(),
        access_log(),
        *(() if refused is None else (refusals(refused),)),
        status(drain, None if limits is None else Tarpit()),
        *(() if admits is None else (admission(admits),)),
        who,
        *(() if limits is None else rate_limit(limits, authenticates=authenticates)),
        deadline(),
        audit(),
    )
