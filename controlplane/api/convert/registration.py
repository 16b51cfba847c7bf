"""Registrations between the wire and the domain."""

from collections.abc import Sequence

from controlplane.api.convert.agents import agent_to_proto, spec_from_proto
from controlplane.api.convert.requests import collecting, request_key
from controlplane.api.convert.values import ms_to_duration
from controlplane.domain.errors import DomainError, FieldViolation, InvalidArgument
from controlplane.domain.registration import (
    endpoint_violations,
    validate_agent_id,
    validate_instance_id,
)
from controlplane.services.live_instances import AgentEntry, LiveInstance
from controlplane.services.registration import InstanceClaim, Registered, Registration
from fleetplane.v1 import registry_service_pb2 as pb

MAX_BATCH = 500
"""Registrations of one call: one pipeline of about 20 ms, so that nobody else waits for it."""


def registration_from_proto(request: pb.RegisterRequest) -> Registration:
    """Return what a request registers.

    Raises:
        InvalidArgument: with every wrong field.
    """
    wrong: list[FieldViolation] = []
    spec = claim = None
    with collecting(wrong):
        if not request.HasField("spec"):
            raise InvalidArgument.of("spec", "is required")
        spec = spec_from_proto(request.spec)
    with collecting(wrong):
        if request.agent_id:
            validate_agent_id(request.agent_id)
    with collecting(wrong):
        claim = _claim_from_proto(request)
    if wrong or spec is None:
        raise InvalidArgument(*wrong)
    return Registration(
        spec=spec,
        agent_id=request.agent_id,
        instance=claim,
        request=request_key(request, request.request_id),
    )


def _claim_from_proto(request: pb.RegisterRequest) -> InstanceClaim | None:
    if not request.HasField("instance"):
        return None
    instance = request.instance
    if instance.instance_id:
        validate_instance_id(instance.instance_id, "instance.instance_id")
    wrong = tuple(endpoint_violations(instance.endpoint, "instance.endpoint"))
    if wrong:
        raise InvalidArgument(*wrong)
    return InstanceClaim(
        instance_id=instance.instance_id,
        endpoint=instance.endpoint,
        generation=instance.generation,
    )


def registrations_from_proto(
    request: pb.BatchRegisterRequest,
) -> list[Registration | DomainError]:
    """Return what each entry registers, or why it cannot.

    Raises:
        InvalidArgument: no entry, or more than 500.
    """
    if not 0 < len(request.requests) <= MAX_BATCH:
        raise InvalidArgument.of("requests", f"must hold 1-{MAX_BATCH} registrations")
    return [_entry_from_proto(entry, request.namespace) for entry in request.requests]


def _entry_from_proto(entry: pb.RegisterRequest, namespace: str) -> Registration | DomainError:
    if entry.namespace and entry.namespace != namespace:
        return InvalidArgument.of("namespace", "must be empty, or that of the batch")
    try:
        return registration_from_proto(entry)
    except DomainError as refusal:
        return refusal


def registered_to_proto(
    outcome: Registered, namespace: str, heartbeat_interval_ms: int
) -> pb.RegisterResponse:
    """Return the answer to a registration."""
    entry = AgentEntry(outcome.agent)
    if outcome.instance is not None:
        entry.instances[outcome.instance.instance_id] = LiveInstance(outcome.instance)
    agent = agent_to_proto(entry, namespace, include_instances=True)
    return pb.RegisterResponse(
        agent=agent,
        instance=agent.instances[0] if agent.instances else None,
        created=outcome.created,
        heartbeat_interval=ms_to_duration(heartbeat_interval_ms),
    )


def required_ids(**ids: str) -> None:
    """Refuse ids that are missing; each is named by its keyword.

    Raises:
        InvalidArgument: with every id that is empty.
    """
    missing: Sequence[FieldViolation] = [
        FieldViolation(field, "is required") for field, value in ids.items() if not value
    ]
    if missing:
        raise InvalidArgument(*missing)
