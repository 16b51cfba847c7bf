"""What a row of the table of methods is, and the kinds of rows there are; see `methods`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from controlplane.domain.access.permissions import Permission


class RateClass(StrEnum):
    """Which budget a call is charged to."""

    FREE = "free"
    """Not limited."""
    READ = "read"
    """Answered from memory."""
    WRITE = "write"
    """Goes to the store."""
    BATCH = "batch"
    """Many entries in one call."""
    STREAM = "stream"
    """Lives for long."""


class Scope(StrEnum):
    """Where the permission is needed."""

    NONE = "none"
    """Nowhere: the call needs no credential, or only to be somebody."""
    NAMESPACE = "namespace"
    """In the namespace of the request's field `namespace`."""
    ANY_NAMESPACE = "any_namespace"
    """There, or everywhere if the field is `*`."""
    NAMESPACE_OR_SYSTEM = "namespace_or_system"
    """There, or everywhere if the field is `@system`."""
    EVERYWHERE = "everywhere"
    """Everywhere, whatever the request says."""


_CHANGES: Final = frozenset(
    {
        Permission.REPORT,
        Permission.SUBMIT,
        Permission.OPERATE,
        Permission.APPROVE,
        Permission.ADMINISTER,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """The row of one RPC.

    Attributes:
        name: Full name, such as `/fleetplane.v1.RegistryService/Register`.
        permission: What the caller must be allowed to do.
        scope: Where.
        rate_class: Which budget it is charged to.
        max_deadline_seconds: Longest the server works on it, whatever the client allows; None for
            streams, which have a maximum age instead.
        own: An agent may call it about itself by its certificate, whatever the permission.
        audited: The call is a change that the audit must show with the caller's address.
        hot: Thousands per second: logged at DEBUG only, answered without extra work.
        idempotent: Repeating the call changes nothing more, so clients may retry it; the others
            are safe to repeat only with the same request_id.
    """

    name: str
    permission: Permission
    rate_class: RateClass
    max_deadline_seconds: float | None
    scope: Scope = Scope.NAMESPACE
    own: bool = False
    audited: bool = False
    hot: bool = False
    idempotent: bool = True

    @property
    def service(self) -> str:
        """Full name of the service, such as `fleetplane.v1.RegistryService`."""
        return self.name[1:].partition("/")[0]

    @property
    def is_change(self) -> bool:
        """True for what may change something: who was refused it is logged."""
        return self.audited or self.permission in _CHANGES

    @property
    def is_infrastructure(self) -> bool:
        """True for health, reflection and channelz, which never hold up a shutdown."""
        return self.name.startswith("/grpc.")


READ_SECONDS: Final = 10.0  # from memory; 5 s of it may be a wait for `min_revision`
WRITE_SECONDS: Final = 15.0  # a store that fails over answers within that, or never
BATCH_SECONDS: Final = 60.0  # 500 registrations against a slow store
CONVERGENCE_SECONDS: Final = 600.0  # WaitForConvergence waits at most 10 min by contract
DRAIN_WAIT_SECONDS: Final = 610.0  # GetDrain waits at most 10 min by contract, and then answers
APPROVAL_WAIT_SECONDS: Final = 60.0  # WaitApproval waits at most 55 s by contract, and then answers
STOP_WAIT_SECONDS: Final = 90.0  # a slow write, then 60 s for the acknowledgements, by contract
PROBE_SECONDS: Final = 5.0  # health probes give up earlier


def read(name: str, *, hot: bool = False) -> Method:
    """A question answered from memory."""
    return Method(
        name=name,
        permission=Permission.READ,
        rate_class=RateClass.READ,
        max_deadline_seconds=READ_SECONDS,
        hot=hot,
    )


def write(
    name: str,
    permission: Permission,
    *,
    idempotent: bool = False,
    seconds: float = WRITE_SECONDS,
    own: bool = False,
) -> Method:
    """A change, audited with who made it and from where."""
    return Method(
        name=name,
        permission=permission,
        own=own,
        rate_class=RateClass.WRITE,
        max_deadline_seconds=seconds,
        audited=True,
        idempotent=idempotent,
    )


def work(name: str, permission: Permission, *, idempotent: bool = True) -> Method:
    """A write about one task: thousands per second, audited by who made it, not by address."""
    return Method(
        name=name,
        permission=permission,
        rate_class=RateClass.WRITE,
        max_deadline_seconds=WRITE_SECONDS,
        hot=True,
        idempotent=idempotent,
    )


def wait(name: str, seconds: float) -> Method:
    """A unary call that waits for something to happen: it lives as long as a stream."""
    return Method(
        name=name,
        permission=Permission.READ,
        rate_class=RateClass.STREAM,
        max_deadline_seconds=seconds,
    )


def rights(
    name: str,
    permission: Permission,
    scope: Scope = Scope.NAMESPACE,
    *,
    idempotent: bool = False,
) -> Method:
    """A change of rights, credentials or namespaces."""
    return Method(
        name=name,
        permission=permission,
        scope=scope,
        rate_class=RateClass.WRITE,
        max_deadline_seconds=WRITE_SECONDS,
        audited=True,
        idempotent=idempotent,
    )


def look(name: str, permission: Permission, scope: Scope = Scope.NAMESPACE) -> Method:
    """A look at rights, credentials or namespaces."""
    return Method(
        name=name,
        permission=permission,
        scope=scope,
        rate_class=RateClass.READ,
        max_deadline_seconds=READ_SECONDS,
    )


def batch(name: str, permission: Permission, *, audited: bool, idempotent: bool = True) -> Method:
    """Many entries in one call, or work for a second."""
    return Method(
        name=name,
        permission=permission,
        rate_class=RateClass.BATCH,
        max_deadline_seconds=BATCH_SECONDS,
        audited=audited,
        hot=not audited,
        idempotent=idempotent,
    )


def stream(name: str, permission: Permission, scope: Scope = Scope.NAMESPACE) -> Method:
    """A stream that lives until somebody ends it."""
    return Method(
        name=name,
        permission=permission,
        scope=scope,
        rate_class=RateClass.STREAM,
        max_deadline_seconds=None,
    )


def probe(name: str, permission: Permission, *, streaming: bool = False) -> Method:
    """Health, reflection, channelz: never limited."""
    return Method(
        name=name,
        permission=permission,
        scope=Scope.NONE if permission is Permission.PUBLIC else Scope.EVERYWHERE,
        rate_class=RateClass.FREE,
        max_deadline_seconds=None if streaming else PROBE_SECONDS,
        hot=True,
    )
