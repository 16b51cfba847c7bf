"""Permissions, and the roles that are made of them.

The rows of `api/methods.py` say which permission each RPC needs; a binding gives a subject a role.
Roles are built in, so that a role means the same in every installation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Permission(StrEnum):
    """What a caller must be allowed to do."""

    PUBLIC = "public"
    """Nothing: health, reflection, and enrolment, which is proven by what is in the request."""
    IDENTIFY = "identify"
    """To be somebody: every authenticated caller has it."""
    DIAGNOSE = "diagnose"
    """Look into the daemon itself."""
    READ = "read"
    """See what is in a namespace, and ask its policies."""
    REPORT = "report"
    """Act as an agent: register, beat, work on tasks, leave."""
    SUBMIT = "submit"
    """Give work to agents, and call it off."""
    OPERATE = "operate"
    """Change agents, configuration, policies, routes or rollouts."""
    APPROVE = "approve"
    """Decide on what waits for an approval."""
    AUDIT = "audit"
    """See who has which rights and credentials, and read the audit."""
    ADMINISTER = "administer"
    """Give and take rights and credentials, make and remove namespaces."""


class RoleName(StrEnum):
    """The built-in roles."""

    VIEWER = "viewer"
    AGENT = "agent"
    ORCHESTRATOR = "orchestrator"
    OPERATOR = "operator"
    APPROVER = "approver"
    AUDITOR = "auditor"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A named set of permissions."""

    name: RoleName
    description: str
    permissions: frozenset[Permission]


def _role(name: RoleName, description: str, *permissions: Permission) -> Role:
    return Role(name=name, description=description, permissions=frozenset(permissions))


_ROLES: Final = (
    _role(RoleName.VIEWER, "Sees everything but rights and credentials.", Permission.READ),
    _role(
        RoleName.AGENT,
        "What the certificate of an agent gives, for itself; as a binding it lets a caller"
        " act for every agent of the namespace.",
        Permission.READ,
        Permission.REPORT,
    ),
    _role(
        RoleName.ORCHESTRATOR,
        "Finds agents and gives them work.",
        Permission.READ,
        Permission.SUBMIT,
    ),
    _role(
        RoleName.OPERATOR,
        "Changes agents, configuration, policies, routes and rollouts.",
        Permission.READ,
        Permission.SUBMIT,
        Permission.OPERATE,
    ),
    _role(
        RoleName.APPROVER,
        "Decides on requests for approval.",
        Permission.READ,
        Permission.APPROVE,
    ),
    _role(
        RoleName.AUDITOR,
        "Sees everything, rights and audit included, and changes nothing.",
        Permission.READ,
        Permission.AUDIT,
        Permission.DIAGNOSE,
    ),
    _role(RoleName.ADMIN, "May do everything.", *(p for p in Permission)),
)

ROLES: Final[Mapping[RoleName, Role]] = MappingProxyType({role.name: role for role in _ROLES})
"""Every role by name."""

EVERYWHERE: Final = "*"
"""In place of a namespace: all of them, those to come included."""
