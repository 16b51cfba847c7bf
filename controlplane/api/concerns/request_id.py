"""Gives every call an id that joins the caller's log with ours."""

import itertools
import re
import secrets
from collections.abc import Callable
from typing import Final

from controlplane.api.context import Call
from controlplane.api.handlers import metadata_of
from controlplane.api.methods import Method
from controlplane.api.pipeline import Concern

METADATA_KEY: Final = "x-request-id"
"""Metadata in which a caller sends its id, and in whose trailing twin it gets the id back."""

_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # safe in logs, in headers and in JSON


def request_id(make: Callable[[], str] | None = None) -> Concern:
    """Return the concern that takes the caller's id, if it is acceptable, or makes one.

    An id of other characters or more than 128 of them is replaced, not refused: a call should not
    fail because of its label. It is sent back in the trailing metadata; hot methods, which have no
    time for metadata, find their id only when somebody asks and send it back only with an error.

    Args:
        make: Makes ids. Default: a random prefix of this process and a counter, which is unique
            and costs less than a random id per call.
    """
    new_id = _numbered() if make is None else make

    def find(call: Call) -> str:
        for key, value in metadata_of(call.context):
            if key == METADATA_KEY and isinstance(value, str) and _ACCEPTED.fullmatch(value):
                return value
        return new_id()

    def before(call: Call) -> None:
        call.find_request_id = find
        if not call.method.hot:
            call.context.set_trailing_metadata(((METADATA_KEY, call.request_id),))

    return Concern(name="request_id", before=before, wanted=_is_traced)


def _is_traced(method: Method) -> bool:
    return not method.is_infrastructure


def _numbered() -> Callable[[], str]:
    prefix = secrets.token_hex(6)
    numbers = itertools.count(1)

    def make() -> str:
        return f"{prefix}-{next(numbers):x}"

    return make
