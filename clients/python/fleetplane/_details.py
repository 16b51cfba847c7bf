"""Reads `google.rpc.Status` from the trailing metadata of a refused call.

Its messages are the SDK's own, see `_status_messages`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import DecodeError

STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
"""Key of the trailing metadata in which gRPC carries a serialized `google.rpc.Status`."""

ERROR_DOMAIN: Final = "fleetplane.dev"
"""`ErrorInfo.domain` of every refusal of this product; other domains are not ours to interpret."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request."""

    field: str
    """Dotted path within the request, such as `spec.version`."""
    description: str
    """What is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusDetails:
    """What the daemon said about a refusal beyond its code and text."""

    reason: str = ""
    """Name of an `ErrorReason` without prefix; empty if the refusal is not from Fleetplane."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Everything variable in the text."""
    retry_after: float | None = None
    """Seconds to wait before a retry, if the daemon named them."""
    violations: tuple[FieldViolation, ...] = ()
    """Wrong fields."""


NO_DETAILS: Final = StatusDetails()


def _parse(name: str, data: bytes) -> Any:
    """Parse one of the private messages, whose fields only exist at run time."""
    from fleetplane._status_messages import CLASSES  # noqa: PLC0415 - 25 ms, for refusals only

    message: Any = CLASSES[name]()
    message.ParseFromString(data)
    return message


def parse_status(data: bytes) -> StatusDetails:
    """Read a serialized `google.rpc.Status`.

    Args:
        data: value of `grpc-status-details-bin`.

    Returns:
        The details this SDK knows; unknown ones are skipped. Bytes that are no Status (a proxy may
        send anything) give empty details, because the code and text of the call still stand.
    """
    try:
        return _read(_parse("Status", data))
    except DecodeError:
        return NO_DETAILS


def _read(status: Any) -> StatusDetails:
    reason, metadata, retry_after = "", dict[str, str](), None
    violations: tuple[FieldViolation, ...] = ()
    for detail in status.details:
        match detail.type_url.rpartition("/")[2]:
            case "google.rpc.ErrorInfo":
                info = _parse("ErrorInfo", detail.value)
                if info.domain == ERROR_DOMAIN:
                    reason, metadata = info.reason, dict(info.metadata)
            case "google.rpc.RetryInfo":
                delay = _parse("RetryInfo", detail.value).retry_delay
                retry_after = max(0.0, delay.seconds + delay.nanos / 1e9)
            case "google.rpc.BadRequest":
                violations = tuple(
                    FieldViolation(one.field, one.description)
                    for one in _parse("BadRequest", detail.value).field_violations
                )
            case _:
                continue
    return StatusDetails(
        reason=reason, metadata=metadata, retry_after=retry_after, violations=violations
    )
