"""How callers are refused for who they are, where they are, or how much they ask.

Part of the tree in `controlplane/domain/errors.py`. No message says more than the caller knows: a
namespace that it may not see does not exist for it, and no text repeats a secret.
"""

from collections.abc import Mapping

from controlplane.domain.access.permissions import Permission
from controlplane.domain.errors import (
    AlreadyExists,
    DomainError,
    FailedPrecondition,
    LimitExceeded,
    NotFound,
)


class Unauthenticated(DomainError):
    """The caller has not shown who it is."""


class CredentialMissing(Unauthenticated):
    """The call shows no credential, and needs one."""

    reason = "CREDENTIAL_MISSING"

    def __init__(self, wanted: str = "a bearer token, or a client certificate") -> None:
        super().__init__(f"this call needs {wanted}")


class CredentialInvalid(Unauthenticated):
    """The credential is not one that is accepted here."""

    reason = "CREDENTIAL_INVALID"

    def __init__(self, what: str, why: str) -> None:
        """Say that `what` (such as `the API token`) is refused, and `why` in a few words."""
        super().__init__(f"{what} is not accepted: {why}", {"why": why})


class CredentialExpired(Unauthenticated):
    """The credential has ended."""

    reason = "CREDENTIAL_EXPIRED"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} has expired")


class CredentialRevoked(Unauthenticated):
    """The credential was revoked, or is used up."""

    reason = "CREDENTIAL_REVOKED"

    def __init__(self, what: str, token_id: str, how: str = "was revoked") -> None:
        super().__init__(f"{what} {how}", {"token_id": token_id})


class EarlierNamespace(CredentialInvalid):
    """The certificate is of an agent of a namespace that was removed; now there is another one."""

    def __init__(self, what: str) -> None:
        super().__init__(what, "it was issued for an earlier namespace of this name")


class Forbidden(DomainError):
    """The caller is known, and may not do this."""


class PermissionDenied(Forbidden):
    """No role of the caller has the permission."""

    reason = "PERMISSION_DENIED"

    def __init__(self, caller: str, permission: Permission, namespace: str, why: str = "") -> None:
        place = "everywhere" if namespace == "*" else f"in namespace {namespace!r}"
        detail = f": {why}" if why else ""
        super().__init__(
            f"{caller} may not {permission.value} {place}{detail}",
            {"permission": permission.value, "namespace": namespace},
        )


class AgentBanned(Forbidden):
    """The agent name is banned."""

    reason = "AGENT_BANNED"

    def __init__(self, namespace: str, agent_name: str) -> None:
        super().__init__(
            f"agent {agent_name!r} is banned in namespace {namespace!r}",
            {"namespace": namespace, "agent_name": agent_name},
        )


class ForeignAgent(Forbidden):
    """An agent may only speak for itself."""

    reason = "FOREIGN_AGENT"

    def __init__(self, agent_name: str, field: str) -> None:
        """Say that agent `agent_name` named, in `field`, something that is not its own."""
        super().__init__(
            f"agent {agent_name!r} may only speak for itself: {field} is not its own",
            {"agent_name": agent_name, "field": field},
        )


class NoCertificateAuthority(FailedPrecondition):
    """The daemon cannot sign certificates."""

    reason = "NO_CERTIFICATE_AUTHORITY"

    def __init__(self) -> None:
        super().__init__("this daemon has no certificate authority to sign with")


class NamespaceNotFound(NotFound):
    """No such namespace, or none that the caller may see."""

    reason = "NAMESPACE_NOT_FOUND"

    def __init__(self, namespace: str) -> None:
        super().__init__(f"no namespace {namespace!r}", {"namespace": namespace})


class NamespaceExists(AlreadyExists):
    """The name is taken."""

    reason = "NAMESPACE_EXISTS"

    def __init__(self, namespace: str) -> None:
        super().__init__(f"namespace {namespace!r} already exists", {"namespace": namespace})


class NamespaceNotEmpty(FailedPrecondition):
    """The namespace still holds something."""

    reason = "NAMESPACE_NOT_EMPTY"

    def __init__(self, namespace: str, holds: Mapping[str, int]) -> None:
        """Say what it holds: kind of thing -> how many, those above 0."""
        what = ", ".join(f"{count} {kind}" for kind, count in holds.items())
        super().__init__(
            f"namespace {namespace!r} still holds {what}",
            {"namespace": namespace, **{kind: str(count) for kind, count in holds.items()}},
        )


class NamespaceTerminating(FailedPrecondition):
    """The namespace is being removed."""

    reason = "NAMESPACE_TERMINATING"

    def __init__(self, namespace: str) -> None:
        super().__init__(f"namespace {namespace!r} is being removed", {"namespace": namespace})


class TokenNotFound(NotFound):
    """No such token in this namespace."""

    reason = "TOKEN_NOT_FOUND"

    def __init__(self, token_id: str) -> None:
        super().__init__(f"no token {token_id!r}", {"token_id": token_id})


class RateLimited(LimitExceeded):
    """Too many calls or streams; later there may be room."""

    reason = "RATE_LIMITED"

    def __init__(self, what: str, *, limit: int, per: str, retry_after_seconds: float) -> None:
        """Refuse more of `what` per `identity`, `namespace`, `stream` or `address`."""
        super().__init__(f"{what} per {per}", limit=limit, retry_after_seconds=retry_after_seconds)
        self.metadata["per"] = per


class QuotaExceeded(LimitExceeded):
    """A quota of the namespace is used up."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, namespace: str, quota: str, *, limit: int) -> None:
        super().__init__(f"{quota} of namespace {namespace!r}", limit=limit)
        self.metadata |= {"quota": quota, "namespace": namespace}


class Overloaded(DomainError):
    """This replica has more to do than it can; it refuses what can wait."""

    reason = "OVERLOADED"
    retry_after_seconds = 1.0

    def __init__(self, message: str = "this replica is overloaded") -> None:
        super().__init__(message)
