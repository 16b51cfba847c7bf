"""The messages in which gRPC carries details of a refusal, as this SDK reads them.

Those of `google/rpc/status.proto` and `error_details.proto` belong to another distribution
(googleapis-common-protos), which an agent should not have to install, and which cannot be
registered twice in one process when it is installed. Wire-compatible copies therefore live in a
descriptor pool of their own, invisible to everybody else.
"""

from collections.abc import Iterable
from typing import Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE: Final = "fleetplane.sdk.rpc"


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


CLASSES: Final = _build()
"""By name: `Status`, `Any`, `ErrorInfo`, `RetryInfo`, `BadRequest` and what they consist of."""
