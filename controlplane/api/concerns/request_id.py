"""Gives every call an id that joins the caller's log with ours."""

import itertools
import re
import secrets
from collections.abc import Callable
from typing import Final

from controlplane.api.context import Call
from controlplane.api.methods import Method
from controlplane.api.pipeline import Concern

METADATA_KEY: Final = "x-request-id"
"""Metadata in which a caller sends its id, and in whose trailing twin it gets the id back."""

_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # safe in logs, in headers and in JSON


def request_id(make: Callable[[], str] | None = None) -> Concern:
    """Return the concern that takes the caller's id, if it is acceptable, or makes one.

    An id of other characters or more than 128 of them is replaced, not refused: a call should not
    fail because of its label. Sent back in the trailing metadata.

    Args:
        make: Makes ids. Default: a random prefix of this process and a counter, which is unique
            and costs less than a random id per call.
    """
    new_id = _numbered() if make is None else make

    def before(call: Call) -> None:
        context = call.context
        chosen = ""
        for key, value in context.invocation_metadata() or ():
            if key == METADATA_KEY and isinstance(value, str) and _ACCEPTED.fullmatch(value):
                chosen = value
        call.request_id = chosen or new_id()
        context.set_trailing_metadata(((METADATA_KEY, call.request_id),))

    return Concern(name="request_id", before=before, wanted=_is_traced)


def _is_traced(method: Method) -> bool:
    return not method.is_infrastructure


def _numbered() -> Callable[[], str]:
    prefix = secrets.token_hex(6)
    numbers = itertools.count(1)

    def make() -> str:
        return f"{prefix}-{next(numbers):x}"

    return make
