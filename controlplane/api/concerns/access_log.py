"""Writes one line per finished call."""

import logging
import time
from typing import Any, Final

import grpc
import structlog

from controlplane.api.context import Call
from controlplane.api.pipeline import Concern, Outcome
from controlplane.telemetry.names import (
    FIELD_CALLER,
    FIELD_CANCELLED_BY,
    FIELD_CODE,
    FIELD_DURATION_MS,
    FIELD_METHOD,
    FIELD_PEER,
    FIELD_REASON,
    FIELD_REQUEST_ID,
    LOGGER_ACCESS,
)

_COUNTED: Final = frozenset({"RATE_LIMITED", "OVERLOADED"})
"""Refusals that come in floods. They are counted (`CallLimits`, `Admission`, `Refusals`), as are
those of unknown callers; an entry costs a third of what the refused call does."""


def access_log() -> Concern:
    """Return the concern that logs finished calls at INFO.

    At DEBUG only: hot methods, and calls that were refused for their number or their credential. A
    call whose level is off costs a branch or two.
    """
    gate = logging.getLogger(LOGGER_ACCESS)
    log: Any = structlog.get_logger(LOGGER_ACCESS)

    def after(call: Call, outcome: Outcome) -> None:
        quiet = call.method.hot or _is_counted(outcome)
        level = logging.DEBUG if quiet else logging.INFO
        if gate.isEnabledFor(level):
            log.log(level, "call finished", **_fields(call, outcome))

    return Concern(name="access_log", after=after)


def _is_counted(outcome: Outcome) -> bool:
    return outcome.code is grpc.StatusCode.UNAUTHENTICATED or outcome.reason in _COUNTED


def _fields(call: Call, outcome: Outcome) -> dict[str, object]:
    fields: dict[str, object] = {
        FIELD_METHOD: call.method.name,
        FIELD_CODE: outcome.code.name,
        FIELD_DURATION_MS: round((time.perf_counter() - call.started) * 1000, 3),
        FIELD_REQUEST_ID: call.request_id,
        FIELD_CALLER: call.caller.name,
        FIELD_PEER: call.context.peer(),
    }
    if outcome.reason:
        fields[FIELD_REASON] = outcome.reason
    if outcome.cancelled_by:
        fields[FIELD_CANCELLED_BY] = outcome.cancelled_by
    return fields
