"""The rule: what a caller may do in a namespace, by its bindings and by what it is.

Everything that no binding gives is refused. The only right without a binding is that of an agent to
act as itself, in the namespace that its certificate names.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from controlplane.domain.access.permissions import EVERYWHERE, ROLES, Permission, Role, RoleName
from controlplane.domain.access.records import RoleBinding
from controlplane.domain.identity import DEFAULT_NAMESPACE, AgentIdentity
from controlplane.domain.namespaces import Namespace

FREE: Final = frozenset({Permission.PUBLIC, Permission.IDENTIFY})
"""What needs no role, and no namespace."""

STOPPED_BY_TERMINATION: Final = frozenset(
    {Permission.REPORT, Permission.SUBMIT, Permission.OPERATE, Permission.APPROVE}
)
"""What a namespace that is being removed refuses: it would put new things into it."""

NEVER: Final = 0
"""In place of a moment in ms: it never comes."""

CERTIFICATE_GRACE_MS: Final = 60_000
"""A certificate may be valid for so long before its namespace was made: certificates are valid from
30 s before they are signed, and the clocks of the store and of the signing host differ."""

_OWN_ROLE: Final = ROLES[RoleName.AGENT]
"""What the certificate of an agent gives it, for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the rule says about one permission in one namespace.

    Attributes:
        permitted: Whether the caller has the permission there.
        confined: It has it only as itself: the permission comes from its own certificate alone.
        visible: Whether the caller has any role there; if not, the namespace does not exist for it.
        until_ms: From when on the verdict may be another one, on the store's clock: the nearest end
            of a binding that it rests on; `NEVER`: it stays as long as the bindings do.
        grants: The bindings that give the permission, the one that ends last first.
    """

    permitted: bool
    confined: bool
    visible: bool
    until_ms: int
    grants: tuple[RoleBinding, ...]


def decide(
    bindings: Iterable[RoleBinding],
    agent: AgentIdentity | None,
    permission: Permission,
    namespace: str,
    now_ms: int,
) -> Verdict:
    """Judge one permission in one namespace; for `EVERYWHERE` only bindings everywhere count.

    Args:
        bindings: Those whose subject means the caller, of any namespace, expired ones included.
        agent: The agent that the caller is; None for everybody else.
        permission: What it needs.
        namespace: Where.
        now_ms: On the store's clock.
    """
    roles = [
        (binding, role)
        for binding in bindings
        if holds(binding, namespace, now_ms) and (role := role_of(binding)) is not None
    ]
    grants = sorted(
        (binding for binding, role in roles if permission in role.permissions), key=_last_first
    )
    is_home = agent is not None and agent.namespace == namespace
    confined = not grants and is_home and permission in _OWN_ROLE.permissions
    return Verdict(
        permitted=bool(grants) or confined or permission in FREE,
        confined=confined,
        visible=bool(roles) or is_home,
        until_ms=earliest(binding.expires_at_ms for binding in grants),
        grants=tuple(grants),
    )


def holds(binding: RoleBinding, namespace: str, now_ms: int) -> bool:
    """Return whether a binding counts in a namespace at a moment."""
    return binding.namespace in {namespace, EVERYWHERE} and not has_ended(
        binding.expires_at_ms, now_ms
    )


def has_ended(expires_at_ms: int, now_ms: int) -> bool:
    """Return whether something that expires then (`NEVER`: not at all) has done so."""
    return expires_at_ms != NEVER and expires_at_ms <= now_ms


def earliest(moments_ms: Iterable[int]) -> int:
    """Return the first of several moments; `NEVER` if none of them comes."""
    return min((moment for moment in moments_ms if moment != NEVER), default=NEVER)


def predates(valid_from_ms: int, namespace: Namespace | None) -> bool:
    """Return whether a certificate is of an earlier namespace of the same name.

    Who was an agent of a tenant that was removed must not be one of the next tenant of that name,
    nor prolong that by renewals.

    Args:
        valid_from_ms: From when on the certificate is valid; 0: nobody knows.
        namespace: Where its agent is now; None: it has no record.
    """
    if namespace is None or namespace.name == DEFAULT_NAMESPACE or not valid_from_ms:
        return False  # `default` is never removed; its record may be younger than its agents
    return namespace.created_at_ms > valid_from_ms + CERTIFICATE_GRACE_MS


def role_of(binding: RoleBinding) -> Role | None:
    """Return the role that a binding gives; None for one that this release does not know.

    A newer replica may have written it. What is not known gives nothing.
    """
    try:
        return ROLES[RoleName(binding.role)]
    except ValueError:
        return None


def sufficient_roles(permission: Permission) -> tuple[RoleName, ...]:
    """Return the roles with a permission, the weaker ones first; all of them for a free one."""
    if permission in FREE:
        return tuple(ROLES)
    return tuple(name for name, role in ROLES.items() if permission in role.permissions)


def _last_first(binding: RoleBinding) -> tuple[bool, int, str]:
    expires = binding.expires_at_ms
    return (expires != NEVER, -expires, binding.binding_id)
