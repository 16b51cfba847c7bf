"""Callers that a test makes up, and what tells them apart on the wire."""

from collections.abc import Mapping

from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.records import SYSTEM_NAMESPACE, RoleBinding
from controlplane.domain.access.refusals import CredentialInvalid
from controlplane.domain.errors import DomainError
from controlplane.domain.identity import AgentIdentity, Caller, CallerKind
from controlplane.domain.namespaces import Namespace
from controlplane.services.ports import AuditEntry, Collection, Delete, Ledger, Put, Transaction


def agent(name: str, namespace: str = "default", *, expires_at_ms: int = 0) -> Caller:
    """Return an agent, as its certificate would show it."""
    spiffe_id = f"spiffe://fleetplane.local/ns/{namespace}/agent/{name}"
    return Caller(
        name=spiffe_id,
        kind=CallerKind.AGENT,
        subjects=(spiffe_id,),
        agent=AgentIdentity(namespace=namespace, agent_name=name),
        credential=f"cert:{spiffe_id}",
        expires_at_ms=expires_at_ms,
    )


def user(name: str, *, is_admin: bool = False, expires_at_ms: int = 0) -> Caller:
    """Return a person."""
    subject = f"user:{name}"
    return Caller(
        name=subject,
        kind=CallerKind.USER,
        subjects=(subject,),
        credential=f"oidc:{name}",
        is_admin=is_admin,
        expires_at_ms=expires_at_ms,
    )


def showing(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that shows a token."""
    return (("authorization", f"Bearer {token}"),)


class KnownCallers:
    """Knows callers by token, and by certificate."""

    def __init__(self, **by_token: Caller) -> None:
        self.by_token = by_token
        self.by_pem: dict[bytes, Caller] = {}
        self.shown: list[bytes] = []

    def by_bearer(self, token: str) -> Caller:
        if token not in self.by_token:
            raise CredentialInvalid("the token", "it is not known here")
        return self.by_token[token]

    def by_certificate(self, pem: bytes) -> Caller:
        self.shown.append(pem)
        if pem not in self.by_pem:
            raise CredentialInvalid("the certificate", "it is not known here")
        return self.by_pem[pem]


class Judge:
    """Lets everybody pass but those it was told to refuse, and remembers what it was asked."""

    def __init__(self, refusals: Mapping[str, DomainError] | None = None) -> None:
        self.refusals: dict[str, DomainError] = dict(refusals or {})
        """Permission or namespace -> refusal"""
        self.confines = False
        self.asked: list[tuple[str, Permission, str]] = []

    def authorise(self, caller: Caller, permission: Permission, namespace: str) -> bool:
        self.asked.append((caller.name, permission, namespace))
        refusal = self.refusals.get(permission) or self.refusals.get(namespace)
        if refusal is not None:
            raise refusal
        return self.confines and permission is not Permission.IDENTIFY


async def bind(ledger: Ledger, caller: Caller, role: str, namespace: str = "default") -> str:
    """Give a caller a role; return the binding's id."""
    binding = RoleBinding(
        binding_id=f"rb-{caller.name}-{role}-{namespace}",
        subject=caller.subjects[0],
        role=role,
        namespace=namespace,
    )
    await _write(ledger, Put(Collection.ROLE_BINDINGS, binding.binding_id, binding))
    return binding.binding_id


async def unbind(ledger: Ledger, binding_id: str) -> None:
    """Take a role away."""
    await _write(ledger, Delete(Collection.ROLE_BINDINGS, binding_id))


async def make_namespace(ledger: Ledger, name: str) -> None:
    """Make a namespace."""
    await _write(ledger, Put(Collection.NAMESPACES, name, Namespace(name=name)))


async def _write(ledger: Ledger, step: Put | Delete) -> None:
    audit = AuditEntry(actor="test", method="Test", object="access/test")
    await ledger.commit(Transaction(namespace=SYSTEM_NAMESPACE, steps=(step,), audit=audit))
