"""Roles and bindings between the wire and the domain."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Final

from controlplane.api.convert.requests import collecting
from controlplane.api.convert.values import bounded_ms, moment
from controlplane.api.methods import Method, Scope
from controlplane.domain.access.decision import NEVER
from controlplane.domain.access.permissions import EVERYWHERE, Permission, Role, RoleName
from controlplane.domain.access.records import RoleBinding
from controlplane.domain.access.subjects import check_subject
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.identity import namespace_of
from controlplane.services.access.explain import Explanation, Needed
from fleetplane.v1 import access_service_pb2 as pb

MAX_DESCRIPTION_BYTES: Final = 256
"""Of a binding, by contract."""

MIN_TTL_MS: Final = 1000
"""1 s, by contract."""

MAX_TTL_MS: Final = 10 * 366 * 86_400_000
"""10 years, by contract; each as long as the longest one, so that no calendar comes out shorter."""

_SLASH: Final = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedBinding:
    """What a request to make a binding asks for, besides where."""

    subject: str
    role: RoleName
    description: str
    ttl_ms: int


def place_from_proto(text: str) -> str:
    """Return the namespace that a request is about: `*` is everywhere, empty is `default`.

    Raises:
        InvalidArgument: field `namespace`.
    """
    return EVERYWHERE if text == EVERYWHERE else namespace_of(text)


def role_from_proto(text: str, field: str) -> RoleName:
    """Return a role by its name.

    Raises:
        InvalidArgument: `field` names no role.
    """
    try:
        return RoleName(text)
    except ValueError:
        raise InvalidArgument.of(field, f"must be one of {', '.join(RoleName)}") from None


def wanted_binding_from_proto(request: pb.CreateRoleBindingRequest) -> WantedBinding:
    """Return what a request asks for.

    Raises:
        InvalidArgument: with a violation for every wrong field.
    """
    wrong: list[FieldViolation] = []
    role, ttl_ms = RoleName.VIEWER, NEVER
    with collecting(wrong):
        check_subject(request.subject)
    with collecting(wrong):
        role = role_from_proto(request.role, "role")
    if len(request.description.encode()) > MAX_DESCRIPTION_BYTES:
        wrong.append(FieldViolation("description", f"is longer than {MAX_DESCRIPTION_BYTES} bytes"))
    if request.HasField("ttl"):
        with collecting(wrong):
            ttl_ms = bounded_ms(
                request.ttl, "ttl", least=MIN_TTL_MS, most=MAX_TTL_MS, said="1 s - 10 years"
            )
    if wrong:
        raise InvalidArgument(*wrong)
    return WantedBinding(
        subject=request.subject, role=role, description=request.description, ttl_ms=ttl_ms
    )


def role_to_proto(role: Role) -> pb.Role:
    """Return a role; its permissions in the order in which they are declared."""
    return pb.Role(
        name=role.name.value,
        description=role.description,
        permissions=[one.value for one in Permission if one in role.permissions],
    )


def binding_to_proto(binding: RoleBinding) -> pb.RoleBinding:
    """Return a binding."""
    return pb.RoleBinding(
        binding_id=binding.binding_id,
        subject=binding.subject,
        role=binding.role,
        namespace=binding.namespace,
        description=binding.description,
        created_by=binding.created_by,
        created_at=moment(binding.created_at_ms),
        expires_at=moment(binding.expires_at_ms),
    )


def explanation_to_proto(explanation: Explanation) -> pb.CheckAccessResponse:
    """Return why something is permitted or not."""
    return pb.CheckAccessResponse(
        allowed=explanation.allowed,
        permission=explanation.permission.value,
        explanation=explanation.words,
        bindings=[binding_to_proto(binding) for binding in explanation.grants],
        sufficient_roles=[role.value for role in explanation.sufficient_roles],
    )


def needed_by_rpc(
    methods: Mapping[str, Method], for_agents: Container[str]
) -> Mapping[str, Needed]:
    """Return what each RPC needs, by full name without the leading slash.

    Args:
        methods: The table of methods.
        for_agents: Names, as in that table, of what agents may call with nothing but their own
            certificate, because the request can be held to be about themselves.
    """
    return {
        name.removeprefix(_SLASH): Needed(
            permission=row.permission,
            everywhere=row.scope is Scope.EVERYWHERE,
            for_agents=name in for_agents,
            own=row.own,
        )
        for name, row in methods.items()
    }
