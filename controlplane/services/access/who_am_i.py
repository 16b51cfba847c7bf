"""Who a caller is to the daemon, and which roles it has."""

from dataclasses import dataclass

from controlplane.domain.access.decision import has_ended
from controlplane.domain.access.permissions import EVERYWHERE, RoleName
from controlplane.domain.access.refusals import CredentialMissing
from controlplane.domain.identity import Caller, CallerKind
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRole:
    """A role that a caller has."""

    role: str
    namespace: str
    """Where; `*`: everywhere."""
    binding_id: str
    """The binding that gives it; empty: it comes with the identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A caller with its roles, by namespace and role."""

    caller: Caller
    roles: tuple[HeldRole, ...]
    authentication: bool
    """Whether the daemon authenticates callers at all."""


class WhoAmI:
    """Answers the question."""

    def __init__(self, read_model: ReadModel, clock: Clock, *, authenticates: bool) -> None:
        self._read_model = read_model
        self._clock = clock
        self._authenticates = authenticates

    def of(self, caller: Caller) -> Identity:
        """Return who a caller is.

        Raises:
            CredentialMissing: it is nobody.
            NotReady: nothing is loaded yet.
        """
        if caller.kind is CallerKind.ANONYMOUS:
            raise CredentialMissing
        now_ms = self._clock.store_ms()
        roles = {
            HeldRole(role=one.role, namespace=one.namespace, binding_id=one.binding_id)
            for one in self._read_model.access.bindings_of(caller.subjects)
            if not has_ended(one.expires_at_ms, now_ms)
        }
        if caller.is_admin:
            roles.add(HeldRole(role=RoleName.ADMIN, namespace=EVERYWHERE, binding_id=""))
        if caller.agent is not None:
            own = caller.agent.namespace
            roles.add(HeldRole(role=RoleName.AGENT, namespace=own, binding_id=""))
        return Identity(
            caller=caller,
            roles=tuple(sorted(roles, key=_order)),
            authentication=self._authenticates,
        )


def _order(held: HeldRole) -> tuple[str, str, str]:
    return held.namespace, held.role, held.binding_id
