"""What happens around every call, as one list.

The order, outermost first, and why:

1. `in_flight` counts the call before anything can fail, so that a shutdown misses none.
2. `request_id` comes next: everything that is logged or answered from here on carries it.
3. `access_log` is outside of `status`, because it reports the final code.
4. `status` maps every error of the concerns and the handler inside it; it alone aborts.
5. `authentication` precedes all that depends on who calls. It may refuse, and hears of every
   refusal further inside.
6. `deadline` bounds the handler, not the answering of errors outside it.
7. `audit` needs the caller.
"""

from controlplane.api.concerns.access_log import access_log
from controlplane.api.concerns.audit import audit
from controlplane.api.concerns.authentication import authentication
from controlplane.api.concerns.deadline import deadline
from controlplane.api.concerns.in_flight import in_flight
from controlplane.api.concerns.request_id import request_id
from controlplane.api.concerns.status import status
from controlplane.api.drain import Drain
from controlplane.api.identification import Identification
from controlplane.api.pipeline import Concern

__all__ = [
    "access_log",
    "audit",
    "authentication",
    "deadline",
    "in_flight",
    "request_id",
    "standard_concerns",
    "status",
]


def standard_concerns(
    drain: Drain, identification: Identification | None = None
) -> tuple[Concern, ...]:
    """Return the concerns of the daemon, outermost first.

    Without an `identification` that authenticates, everybody is the local administrator.
    """
    if identification is not None and identification.authenticates:
        who = authentication(identification, identification.refusals)
    else:
        who = authentication()
    return (
        in_flight(drain),
        request_id(),
        access_log(),
        status(drain),
        who,
        deadline(),
        audit(),
    )
