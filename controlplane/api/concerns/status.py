"""Turns whatever ended a call into a status: the only place that aborts."""

import asyncio
from typing import Any, Final

import grpc
import structlog

from controlplane.api.concerns.request_id import METADATA_KEY
from controlplane.api.context import Call
from controlplane.api.drain import Drain
from controlplane.api.limits.tarpit import Tarpit
from controlplane.api.pipeline import Concern, MethodNotImplemented, Outcome
from controlplane.api.status import Answers, is_defect, root_cause
from controlplane.telemetry.names import FIELD_ERROR, LOGGER_API

DETAILS_KEY: Final = "grpc-status-details-bin"
"""Trailer in which a `google.rpc.Status` travels, by convention of all gRPC libraries."""

_log: Any = structlog.get_logger(LOGGER_API)
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def status(drain: Drain, tarpit: Tarpit | None = None) -> Concern:
    """Return the concern that answers errors.

    A cancellation and an abort that already happened pass unchanged. Everything else is answered
    with the status of `api/status.py`; defects are logged with their traceback.

    Args:
        drain: Says whether a cancellation is ours.
        tarpit: Lets refusals wait; None: none does.
    """
    answers = Answers()

    async def refuse(call: Call, outcome: Outcome) -> None:
        error = outcome.error
        if isinstance(error, grpc.aio.AbortError):
            outcome.code = call.context.code()
        elif isinstance(error, asyncio.CancelledError):
            _cancelled(call, outcome, drain)
        elif isinstance(error, Exception):
            if tarpit is not None and not await _held(tarpit, call, outcome, error, drain):
                return
            await _abort(call, outcome, error, drain, answers)

    return Concern(name="status", refuse=refuse)


def _cancelled(call: Call, outcome: Outcome, drain: Drain) -> None:
    outcome.code = grpc.StatusCode.CANCELLED
    remaining: float | None = call.context.time_remaining()
    if remaining is not None and remaining <= 0:
        outcome.cancelled_by = "deadline"
    else:
        outcome.cancelled_by = "server" if drain.draining.is_set() else "client"


async def _held(
    tarpit: Tarpit, call: Call, outcome: Outcome, error: Exception, drain: Drain
) -> bool:
    """Wait as long as the tarpit says; False: the call was cancelled in the meantime."""
    try:
        await tarpit.hold(call, error)
    except asyncio.CancelledError as cancelled:
        outcome.error = cancelled
        _cancelled(call, outcome, drain)
        return False
    return True


async def _abort(
    call: Call, outcome: Outcome, error: Exception, drain: Drain, answers: Answers
) -> None:
    """Send the status of `error`; leave in `outcome` what grpc must see."""
    cause = root_cause(error)
    returned = ((METADATA_KEY, call.request_id),) if call.request_id else ()
    # What grpc raises when a peer disappears during a write is a defect only if it is still there.
    is_doubtful = isinstance(cause, grpc.aio.InternalError)
    try:
        if isinstance(cause, MethodNotImplemented):
            outcome.code = grpc.StatusCode.UNIMPLEMENTED
            await call.context.abort(outcome.code, f"{cause} is not implemented", returned)
        if is_defect(cause) and not is_doubtful:
            _report(error, cause)
        answer = answers.to(cause, call.request_id)
        outcome.code = _CODES[answer.code]
        outcome.reason = answer.reason
        trailers = ((DETAILS_KEY, answer.raw), *returned)
        await call.context.abort(outcome.code, answer.message, trailers)
    except grpc.aio.AbortError as aborted:
        outcome.error = aborted
        if is_doubtful:
            _report(error, cause)
    except (grpc.aio.UsageError, grpc.aio.InternalError, asyncio.CancelledError):
        # The peer is gone: there is nobody to answer, and grpc expects a cancellation.
        outcome.error = asyncio.CancelledError("the peer is gone")
        outcome.reason = "" if is_doubtful else outcome.reason
        _cancelled(call, outcome, drain)


def _report(error: Exception, cause: BaseException) -> None:
    _log.error(
        "unexpected error while answering",
        exc_info=error,
        **{FIELD_ERROR: type(cause).__name__},
    )
