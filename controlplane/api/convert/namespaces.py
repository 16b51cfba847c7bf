"""Namespaces between the wire and the domain."""

from controlplane.api.convert.values import EnumPair, moment
from controlplane.domain.namespaces import Namespace, NamespaceState, Quotas
from fleetplane.v1 import namespace_service_pb2 as pb

STATES = EnumPair(pb.NamespaceState, "NAMESPACE_STATE_", NamespaceState)


def quotas_from_proto(quotas: pb.Quotas) -> Quotas:
    """Return bounds; the domain judges them."""
    return Quotas(
        agents=quotas.agents,
        instances=quotas.instances,
        streams=quotas.streams,
        watches=quotas.watches,
        policies=quotas.policies,
        config_bytes=quotas.config_bytes,
        waiting_tasks=quotas.waiting_tasks,
        calls_per_second=quotas.calls_per_second,
        prompts=quotas.prompts,
        prompt_bytes=quotas.prompt_bytes,
    )


def quotas_to_proto(quotas: Quotas) -> pb.Quotas:
    """Return bounds, or what is used of them; beyond what the wire holds, the most it holds."""
    return pb.Quotas(
        agents=_uint32(quotas.agents),
        instances=_uint32(quotas.instances),
        streams=_uint32(quotas.streams),
        watches=_uint32(quotas.watches),
        policies=_uint32(quotas.policies),
        config_bytes=quotas.config_bytes,
        waiting_tasks=_uint32(quotas.waiting_tasks),
        calls_per_second=_uint32(quotas.calls_per_second),
        prompts=_uint32(quotas.prompts),
        prompt_bytes=quotas.prompt_bytes,
    )


def namespace_to_proto(namespace: Namespace) -> pb.Namespace:
    """Return a namespace."""
    return pb.Namespace(
        name=namespace.name,
        description=namespace.description,
        labels=namespace.labels,
        quotas=quotas_to_proto(namespace.quotas),
        state=STATES.to_wire(namespace.state),
        created_by=namespace.created_by,
        # One that came into being by its first use was not made when its object was.
        created_at=moment(namespace.created_at_ms if namespace.created_by else 0),
        updated_at=moment(namespace.updated_at_ms),
        revision=namespace.revision,
    )


def _uint32(value: int) -> int:
    return min(value, 2**32 - 1)
