"""Who may do what, decided from this replica's copy of rights and credentials.

Asked before every call, and again for streams that live on. The rule itself is
`domain/access/decision.py`; here it meets what is known now: bindings, bans, tokens, namespaces.
"""

from collections.abc import Callable
from typing import Final

from controlplane.domain.access.decision import (
    NEVER,
    STOPPED_BY_TERMINATION,
    Verdict,
    decide,
    earliest,
    has_ended,
    predates,
    role_of,
    sufficient_roles,
)
from controlplane.domain.access.permissions import EVERYWHERE, Permission
from controlplane.domain.access.records import RoleBinding
from controlplane.domain.access.refusals import (
    AgentBanned,
    CredentialExpired,
    CredentialMissing,
    CredentialRevoked,
    EarlierNamespace,
    NamespaceNotFound,
    NamespaceTerminating,
    PermissionDenied,
)
from controlplane.domain.errors import DomainError
from controlplane.domain.identity import DEFAULT_NAMESPACE, Caller, CallerKind
from controlplane.domain.namespaces import NamespaceState
from controlplane.services.access.view import AccessView
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel

MAX_REMEMBERED: Final = 65_536
"""Verdicts kept at once, about 20 MB: 10,000 callers with a handful of permissions each. When they
are more, all are forgotten, which costs each caller one decision."""

_Key = tuple[str, str, Permission]

_CREDENTIALS: Final = {
    CallerKind.AGENT: "the certificate",
    CallerKind.WORKLOAD: "the certificate",
    CallerKind.USER: "the token",
    CallerKind.API_TOKEN: "the API token",
}
"""What a credential is called in a refusal."""


class Authoriser:
    """Judges calls. Synchronous and in memory; a verdict that is remembered costs below 1 us.

    Every method may raise NotReady: this replica has not loaded its first snapshot yet.
    """

    def __init__(
        self,
        read_model: ReadModel,
        clock: Clock,
        *,
        authenticates: bool,
        admins: frozenset[str] = frozenset(),
    ) -> None:
        """Judge by what `read_model` knows.

        Args:
            read_model: This replica's copy of rights, credentials and namespaces.
            clock: What bindings and credentials expire by.
            authenticates: Whether callers have to show who they are. If not, everybody may do
                everything, in namespaces that come into being by their use.
            admins: Subjects that are admin everywhere, whatever the bindings say.
        """
        self._read_model = read_model
        self._clock = clock
        self._authenticates = authenticates
        self._admins = admins
        self._version = 0
        self._remembered: dict[_Key, tuple[bool, int]] = {}
        """(credential, namespace, permission) -> confined, and until when; only what may pass"""

    @property
    def authenticates(self) -> bool:
        """Whether callers have to show who they are."""
        return self._authenticates

    def authenticating(self) -> "Authoriser":
        """Return one that judges as if callers had to show who they are; itself if they have to."""
        if self._authenticates:
            return self
        return Authoriser(self._read_model, self._clock, authenticates=True, admins=self._admins)

    def authorise(self, caller: Caller, permission: Permission, namespace: str) -> bool:
        """Let a call pass; return whether the caller is confined to the agent that it is.

        Confined means that the permission comes from the agent's own certificate alone: whoever
        answers the call must see to it that it is about that agent.

        Args:
            caller: Who calls.
            permission: What it needs.
            namespace: Where; `EVERYWHERE`: only rights that hold everywhere count.

        Raises:
            Unauthenticated: CredentialMissing, CredentialExpired or CredentialRevoked;
                EarlierNamespace: the certificate is of an agent of another one of that name.
            AgentBanned: the caller is an agent whose name is banned.
            NamespaceNotFound: there is no such namespace, or the caller has no role there.
            PermissionDenied: it has one, but none with the permission; says which would do.
            NamespaceTerminating: the namespace is being removed, and the call would fill it.
        """
        outcome = self._judge(caller, permission, namespace)
        if outcome is True or outcome is False:
            return outcome
        raise outcome

    def objection(
        self, caller: Caller, permission: Permission, namespace: str
    ) -> DomainError | None:
        """Return what `authorise` would raise; None if the call may pass, or live on."""
        outcome = self._judge(caller, permission, namespace)
        return outcome if isinstance(outcome, DomainError) else None

    def places_of(self, caller: Caller) -> frozenset[str] | None:
        """Return the namespaces where a caller has a role, those included that do not exist.

        None: in all of them. Costs what the caller's own rights are, not what there is.
        """
        if self.is_admin(caller):
            return None
        now_ms = self._clock.store_ms()
        places = {
            binding.namespace
            for binding in self._read_model.access.bindings_of(caller.subjects)
            if role_of(binding) is not None and not has_ended(binding.expires_at_ms, now_ms)
        }
        if EVERYWHERE in places:
            return None
        if caller.agent is not None:
            places.add(caller.agent.namespace)
        return frozenset(places)

    def is_admin(self, caller: Caller) -> bool:
        """Return whether a caller may do everything, whatever the bindings say."""
        if not self._authenticates or caller.is_admin:
            return True
        return not self._admins.isdisjoint(caller.subjects)

    def grants(
        self, caller: Caller, permission: Permission, namespace: str
    ) -> tuple[RoleBinding, ...]:
        """Return the bindings that give a caller a permission, the one that ends last first.

        Nothing is said about its credential. Empty also for who needs none: see `is_admin`, and
        agents that act as themselves.
        """
        return self._verdict(caller, permission, namespace).grants

    def _judge(self, caller: Caller, permission: Permission, namespace: str) -> bool | DomainError:
        """Return whether the caller is confined, or the refusal."""
        if permission is Permission.PUBLIC:
            return False
        if not self._authenticates:
            if permission in STOPPED_BY_TERMINATION:
                return _termination(self._read_model.access, namespace) or False
            return False
        access = self._read_model.access
        key = (caller.credential, namespace, permission)
        if access.version != self._version:
            self._remembered.clear()
            self._version = access.version
        remembered = self._remembered.get(key)
        if remembered is not None:
            confined, until_ms = remembered
            if until_ms == NEVER or self._clock.store_ms() < until_ms:
                return confined
        return self._decide(caller, permission, namespace, access)

    def _decide(
        self, caller: Caller, permission: Permission, namespace: str, access: AccessView
    ) -> bool | DomainError:
        refusal = self._credential(caller, access)
        if refusal is not None:
            return refusal
        if permission is Permission.IDENTIFY:
            return False
        if not _is_known(access, namespace):
            return NamespaceNotFound(namespace)
        confined, until_ms = False, caller.expires_at_ms
        if not self.is_admin(caller):
            verdict = self._verdict(caller, permission, namespace)
            if not verdict.permitted:
                return _refusal(caller, permission, namespace, verdict)
            confined = verdict.confined
            until_ms = earliest((until_ms, verdict.until_ms))
        if permission in STOPPED_BY_TERMINATION:
            refusal = _termination(access, namespace)
            if refusal is not None:
                return refusal
        self._remember((caller.credential, namespace, permission), confined, until_ms)
        return confined

    def _remember(self, key: _Key, confined: bool, until_ms: int) -> None:  # noqa: FBT001 - a value
        if not key[0]:
            return  # without a credential nothing tells one caller from another
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = (confined, until_ms)

    def _verdict(self, caller: Caller, permission: Permission, namespace: str) -> Verdict:
        bindings = self._read_model.access.bindings_of(caller.subjects, namespace)
        return decide(bindings, caller.agent, permission, namespace, self._clock.store_ms())

    def _credential(  # noqa: PLR0911 - one per way in which a credential ends
        self, caller: Caller, access: AccessView
    ) -> DomainError | None:
        if caller.kind is CallerKind.ANONYMOUS:
            return CredentialMissing()
        what = _CREDENTIALS.get(caller.kind, "the credential")
        if caller.token_id:
            token = access.api_tokens.get(caller.token_id)
            if token is None:
                return CredentialRevoked(what, caller.token_id, "does not exist any more")
            if token.revoked:
                return CredentialRevoked(what, caller.token_id)
        if has_ended(caller.expires_at_ms, self._clock.store_ms()):
            return CredentialExpired(what)
        agent = caller.agent
        if agent is None:
            return None
        if access.ban_of(agent.namespace, agent.agent_name) is not None:
            return AgentBanned(agent.namespace, agent.agent_name)
        is_earlier = predates(caller.valid_from_ms, access.namespaces.get(agent.namespace))
        return EarlierNamespace(what) if is_earlier else None


def _is_known(access: AccessView, namespace: str) -> bool:
    return namespace in {DEFAULT_NAMESPACE, EVERYWHERE} or namespace in access.namespaces


def _termination(access: AccessView, namespace: str) -> NamespaceTerminating | None:
    known = access.namespaces.get(namespace)
    if known is None or known.state is not NamespaceState.TERMINATING:
        return None
    return NamespaceTerminating(namespace)


def _refusal(
    caller: Caller, permission: Permission, namespace: str, verdict: Verdict
) -> DomainError:
    everywhere = namespace == EVERYWHERE
    if not verdict.visible and not everywhere:
        return NamespaceNotFound(namespace)
    roles = sufficient_roles(permission)
    which = "the role" if len(roles) == 1 else "one of the roles"
    held = " everywhere" if everywhere else ""
    why = f"it takes {which} {', '.join(roles)}{held}"
    return PermissionDenied(caller.name, permission, namespace, why)


def authorise_own(
    authorise: Callable[[Caller, Permission, str], bool],
    caller: Caller,
    permission: Permission,
    namespace: str,
) -> bool:
    """Let pass whom `authorise` lets pass, and agents that act upon themselves.

    For what an agent may do about itself by its certificate although its role lacks the permission,
    such as draining its own process. Returns whether the caller is confined to its own agent;
    raises as `authorise` does.
    """
    try:
        return authorise(caller, permission, namespace)
    except PermissionDenied:
        if caller.agent is None:
            raise
        authorise(caller, Permission.REPORT, namespace)
        return True
