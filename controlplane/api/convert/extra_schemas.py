"""Schemas of `extra` between the wire and the services."""

from controlplane.api.convert.configs import scope_to_proto
from controlplane.api.convert.requests import reason_from_proto
from controlplane.api.convert.values import json_to_struct, ms_to_timestamp, struct_to_json
from controlplane.domain.configs.extra_schema import ExtraSchema
from controlplane.services.extra_schemas import (
    ExtraSchemaChange,
    ExtraSchemaChanged,
    StoredViolation,
)
from controlplane.services.ports import RequestKey
from fleetplane.v1 import config_service_pb2 as pb


def schema_change_from_proto(
    request: pb.SetExtraSchemaRequest, key: RequestKey | None
) -> ExtraSchemaChange:
    """Return what SetExtraSchema asks for.

    Raises:
        InvalidArgument: a reason that is too long, or a schema that is no JSON or nested too
            deeply; what it says is judged by the domain.
    """
    return ExtraSchemaChange(
        document=struct_to_json(request.schema, "schema"),
        expected_revision=(
            request.expected_revision if request.HasField("expected_revision") else None
        ),
        reason=reason_from_proto(request.reason),
        dry_run=request.dry_run,
        force=request.force,
        request=key,
    )


def extra_schema_to_proto(schema: ExtraSchema) -> pb.ExtraSchema:
    """Return a schema as a message."""
    return pb.ExtraSchema(
        schema=json_to_struct(schema.document),
        revision=schema.revision,
        author=schema.author,
        reason=schema.reason,
        updated_at=ms_to_timestamp(schema.updated_at_ms) if schema.revision else None,
    )


def schema_changed_to_proto(outcome: ExtraSchemaChanged) -> pb.SetExtraSchemaResponse:
    """Return what a change of the schema did."""
    return pb.SetExtraSchemaResponse(
        schema=extra_schema_to_proto(outcome.schema),
        changed=outcome.changed,
        violations=[_violation_to_proto(one) for one in outcome.violations],
        more_violations=outcome.more_violations,
    )


def _violation_to_proto(violation: StoredViolation) -> pb.ExtraSchemaViolation:
    return pb.ExtraSchemaViolation(
        layer=scope_to_proto(violation.layer) if violation.layer is not None else None,
        agent_id=violation.agent_id,
        path=violation.path,
        description=violation.description,
    )
