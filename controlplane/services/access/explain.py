"""Would a call be permitted, and why: the same judgement as for real calls, in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from controlplane.domain.access.decision import FREE, sufficient_roles
from controlplane.domain.access.permissions import EVERYWHERE, Permission, RoleName
from controlplane.domain.access.records import RoleBinding
from controlplane.domain.access.refusals import (
    ForeignAgent,
    NamespaceNotFound,
    PermissionDenied,
)
from controlplane.domain.access.subjects import TOKEN, check_subject, is_pattern
from controlplane.domain.errors import DomainError, InvalidArgument
from controlplane.domain.identity import AgentIdentity, Caller, CallerKind
from controlplane.services.access.authoriser import Authoriser, authorise_own
from controlplane.services.read_model import ReadModel

MAX_SUBJECTS: Final = 256
"""Subjects of one question: a person in some hundred groups, asked about in one piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What an action needs.

    Attributes:
        permission: The permission.
        everywhere: It has to hold everywhere, whatever namespace a request names.
        for_agents: Whether an agent may do it as itself, if its certificate gives the permission.
        own: Whether an agent may do it about itself even if its certificate does not.
    """

    permission: Permission
    everywhere: bool = False
    for_agents: bool = True
    own: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The answer to one question.

    Attributes:
        allowed: Whether the call would be permitted.
        permission: What the action needs.
        words: Why, in one or two sentences.
        grants: The bindings that permit it.
        sufficient_roles: Roles that would.
    """

    allowed: bool
    permission: Permission
    words: str
    grants: tuple[RoleBinding, ...]
    sufficient_roles: tuple[RoleName, ...]


class AccessCheck:
    """Explains what callers may do."""

    def __init__(
        self,
        read_model: ReadModel,
        authoriser: Authoriser,
        *,
        methods: Mapping[str, Needed],
        agent_of: Callable[[str], AgentIdentity | None],
    ) -> None:
        """Explain the verdicts of `authoriser`.

        Args:
            read_model: This replica's copy of rights and credentials.
            authoriser: Who judges calls.
            methods: What each RPC needs, by full name such as
                `fleetplane.v1.RegistryService/UpdateAgent`.
            agent_of: Which agent a SPIFFE id is; None: none.
        """
        self._read_model = read_model
        self._authoriser = authoriser
        self._judge = authoriser.authenticating()
        self._methods = methods
        self._agent_of = agent_of

    def explain(
        self,
        caller: Caller,
        action: str,
        namespace: str,
        *,
        subjects: Sequence[str] = (),
        agent_name: str = "",
    ) -> Explanation:
        """Answer whether a call would be permitted.

        About others the answer is what it will be once callers are authenticated, even if this
        daemon does not do that yet.

        Args:
            caller: Who asks.
            action: Full name of an RPC, or a permission.
            namespace: Where the call would be made; `EVERYWHERE`: in every namespace.
            subjects: About whom; empty: about the caller.
            agent_name: About which agent the call would be; empty: about the caller's own.

        Raises:
            InvalidArgument: fields `action`, `subjects`.
            DomainError: the caller asks about others, and may not see the rights that hold where
                the action needs its permission; see `Authoriser.authorise`.
        """
        needed = self._needed(action)
        permission = needed.permission
        place = EVERYWHERE if needed.everywhere else namespace
        whom = _checked(subjects)
        if not whom and not self._authoriser.authenticates:
            return self._open(caller, permission, place)
        if set(whom) <= set(caller.subjects):
            asked = self._stand_in(whom) if whom else caller
            return self._explained(asked, needed, place, agent_name)
        self._authoriser.authorise(caller, Permission.AUDIT, place)
        asked = self._stand_in(whom)
        if self._is_strange(asked, permission, place):
            return self._refused(permission, NamespaceNotFound(place).message)
        return self._explained(asked, needed, place, agent_name)

    def _is_strange(self, asked: Caller, permission: Permission, namespace: str) -> bool:
        """Return whether an auditor of a namespace must not learn if a credential is good.

        That of an agent or a program without a role there is another tenant's: whether it is
        banned, revoked or there at all is not his to know.
        """
        if permission is Permission.PUBLIC or namespace == EVERYWHERE:
            return False
        if asked.agent is None and not asked.token_id:
            return False
        token = self._read_model.access.api_tokens.get(asked.token_id)
        if token is not None and token.namespace == namespace:
            return False
        places = self._judge.places_of(asked)
        return places is not None and namespace not in places

    def _open(self, caller: Caller, permission: Permission, namespace: str) -> Explanation:
        """Answer a caller of a daemon that authenticates nobody."""
        refusal = self._authoriser.objection(caller, permission, namespace)
        words = "this daemon authenticates nobody: everybody who reaches it may do everything"
        return Explanation(
            allowed=refusal is None,
            permission=permission,
            words=words if refusal is None else refusal.message,
            grants=(),
            sufficient_roles=sufficient_roles(permission),
        )

    def _explained(
        self, asked: Caller, needed: Needed, namespace: str, agent_name: str
    ) -> Explanation:
        permission = needed.permission
        try:
            if needed.own:
                confined = authorise_own(self._judge.authorise, asked, permission, namespace)
            else:
                confined = self._judge.authorise(asked, permission, namespace)
            if confined:
                _check_confined(asked, needed, namespace, agent_name)
        except DomainError as refusal:
            return self._refused(permission, refusal.message)
        grants: tuple[RoleBinding, ...] = ()
        if permission not in FREE:
            grants = self._judge.grants(asked, permission, namespace)
        return Explanation(
            allowed=True,
            permission=permission,
            words=self._why(asked, permission, grants),
            grants=grants,
            sufficient_roles=sufficient_roles(permission),
        )

    def _refused(self, permission: Permission, words: str) -> Explanation:
        return Explanation(
            allowed=False,
            permission=permission,
            words=words,
            grants=(),
            sufficient_roles=sufficient_roles(permission),
        )

    def _why(self, asked: Caller, permission: Permission, grants: Sequence[RoleBinding]) -> str:
        """Return why something is permitted."""
        if permission is Permission.PUBLIC:
            return "nobody needs a permission for this"
        if permission is Permission.IDENTIFY:
            return "every authenticated caller may do this"
        if self._judge.is_admin(asked):
            return "the settings of the daemon make this caller an administrator"
        if grants:
            return "; ".join(_said(binding) for binding in grants)
        name = asked.agent.agent_name if asked.agent is not None else asked.name
        return f"the certificate of agent {name!r} permits it, for that agent itself"

    def _needed(self, action: str) -> Needed:
        try:
            return Needed(permission=Permission(action))
        except ValueError:
            pass
        needed = self._methods.get(action.removeprefix("/"))
        if needed is None:
            permissions = ", ".join(Permission)
            raise InvalidArgument.of(
                "action",
                "must be the full name of an RPC, such as"
                f" fleetplane.v1.RegistryService/UpdateAgent, or one of {permissions}",
            )
        return needed

    def _stand_in(self, subjects: tuple[str, ...]) -> Caller:
        """Return a caller as he would be who is known by these subjects."""
        agents = (self._agent_of(subject) for subject in subjects)
        agent = next((agent for agent in agents if agent is not None), None)
        token_id = next((s.removeprefix(TOKEN) for s in subjects if s.startswith(TOKEN)), "")
        token = self._read_model.access.api_tokens.get(token_id)
        kind = CallerKind.USER
        if token_id:
            kind = CallerKind.API_TOKEN
        elif agent is not None:
            kind = CallerKind.AGENT
        return Caller(
            name=subjects[0],
            kind=kind,
            subjects=subjects,
            agent=agent,
            token_id=token_id,
            expires_at_ms=token.expires_at_ms if token is not None else 0,
        )


def _checked(subjects: Sequence[str]) -> tuple[str, ...]:
    if len(subjects) > MAX_SUBJECTS:
        raise InvalidArgument.of("subjects", f"has more than {MAX_SUBJECTS} entries")
    for index, subject in enumerate(subjects):
        field = f"subjects[{index}]"
        if is_pattern(check_subject(subject, field)):
            raise InvalidArgument.of(field, "must be one caller's, not a pattern")
    return tuple(subjects)


def _check_confined(asked: Caller, needed: Needed, namespace: str, agent_name: str) -> None:
    """Refuse what an agent may not do with nothing but its certificate."""
    own = asked.agent.agent_name if asked.agent is not None else ""
    if not needed.for_agents:
        why = "it is not about one agent, so the certificate of an agent does not suffice"
        raise PermissionDenied(asked.name, needed.permission, namespace, why)
    if agent_name not in {"", own}:
        raise ForeignAgent(own, "agent_name")


def _said(binding: RoleBinding) -> str:
    where = "everywhere" if binding.namespace == EVERYWHERE else f"in {binding.namespace!r}"
    return f"{binding.subject} is {binding.role} {where}, by {binding.binding_id}"
