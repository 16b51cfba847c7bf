"""Reads `google.rpc.Status` from the trailing metadata of a refused call.

The messages of `google/rpc/status.proto` and `error_details.proto` belong to another distribution
(googleapis-common-protos), which an agent should not have to install, and which cannot be
registered twice in one process when it is installed. Wire-compatible copies therefore live in a
descriptor pool of their own, invisible to everybody else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
"""Key of the trailing metadata in which gRPC carries a serialized `google.rpc.Status`."""

ERROR_DOMAIN: Final = "fleetplane.dev"
"""`ErrorInfo.domain` of every refusal of this product; other domains are not ours to interpret."""

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE: Final = "fleetplane.sdk.rpc"


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


def _message(
    name: str, *fields: tuple[str, int, int, str], repeated: Iterable[str] = ()
) -> descriptor_pb2.DescriptorProto:
    """Describe one message; a field is (name, number, type, type name or "")."""
    message = descriptor_pb2.DescriptorProto(name=name)
    for field_name, number, kind, type_name in fields:
        message.field.add(
            name=field_name,
            number=number,
            type=_Field.Type.ValueType(kind),
            type_name=type_name or None,
            label=_Field.LABEL_REPEATED if field_name in repeated else _Field.LABEL_OPTIONAL,
        )
    return message


def _build() -> dict[str, type[Message]]:
    """Build the message classes of this module in a private pool."""
    text, number, blob, nested = (
        _Field.TYPE_STRING,
        _Field.TYPE_INT32,
        _Field.TYPE_BYTES,
        _Field.TYPE_MESSAGE,
    )
    entry = _message("MetadataEntry", ("key", 1, text, ""), ("value", 2, text, ""))
    entry.options.map_entry = True
    info = _message(
        "ErrorInfo",
        ("reason", 1, text, ""),
        ("domain", 2, text, ""),
        ("metadata", 3, nested, f".{_PACKAGE}.ErrorInfo.MetadataEntry"),
        repeated=("metadata",),
    )
    info.nested_type.append(entry)
    file = descriptor_pb2.FileDescriptorProto(
        name="fleetplane/sdk/rpc.proto", package=_PACKAGE, syntax="proto3"
    )
    file.message_type.extend(
        [
            _message("Any", ("type_url", 1, text, ""), ("value", 2, blob, "")),
            _message(
                "Status",
                ("code", 1, number, ""),
                ("message", 2, text, ""),
                ("details", 3, nested, f".{_PACKAGE}.Any"),
                repeated=("details",),
            ),
            info,
            _message("Duration", ("seconds", 1, _Field.TYPE_INT64, ""), ("nanos", 2, number, "")),
            _message("RetryInfo", ("retry_delay", 1, nested, f".{_PACKAGE}.Duration")),
            _message("FieldViolation", ("field", 1, text, ""), ("description", 2, text, "")),
            _message(
                "BadRequest",
                ("field_violations", 1, nested, f".{_PACKAGE}.FieldViolation"),
                repeated=("field_violations",),
            ),
        ]
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}")
        )
        for message in file.message_type
    }


_CLASSES: Final = _build()


def _parse(name: str, data: bytes) -> Any:
    """Parse one of the private messages, whose fields only exist at run time."""
    message = _CLASSES[name]()
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
