"""What a right rested on when it was used: conditions of the transaction that uses it.

A replica learns of a change within milliseconds, at worst two seconds. In that time an
administrator who was just removed could make himself one again, and the removal would be for
nothing. So changes of rights are committed on condition that the binding and the token they rest on
are still there, and that no ban has come: the store refuses what a replica does not know yet.

Who is admin for a while must not become one for ever by his own hand either, nor through a friend.
"""

from controlplane.domain.access.decision import NEVER, has_ended
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.records import SYSTEM_NAMESPACE, RoleBinding, ban_key
from controlplane.domain.access.refusals import AgentBanned, CredentialRevoked, PermissionDenied
from controlplane.domain.identity import Caller
from controlplane.services.access.authoriser import Authoriser
from controlplane.services.ports import (
    ABSENT,
    Clock,
    Collection,
    Expect,
    Ledger,
    Record,
    Require,
)


class Standing:
    """Turns the rights of a caller into conditions."""

    def __init__(self, ledger: Ledger, clock: Clock, authoriser: Authoriser) -> None:
        self._ledger = ledger
        self._clock = clock
        self._authoriser = authoriser

    async def conditions(
        self,
        caller: Caller,
        permission: Permission,
        namespace: str,
        *,
        admin_until_ms: int | None = None,
    ) -> tuple[Require, ...]:
        """Return what has to be as it is for a caller to have a permission, by the ledger itself.

        Nothing but the credential for those whose right does not come from a binding: everybody
        without authentication, the admins of the settings, agents that act as themselves.

        Args:
            caller: Who changes something.
            permission: What that needs.
            namespace: Where.
            admin_until_ms: It makes somebody admin there until then (`NEVER`: for ever); None: it
                does not.

        Raises:
            DomainError: whatever `Authoriser.authorise` refuses with, and PermissionDenied,
                AgentBanned or CredentialRevoked for what this replica does not know yet;
                PermissionDenied also for an admin that is to outlast the caller's own right.
        """
        confined = self._authoriser.authorise(caller, permission, namespace)
        if not self._authoriser.authenticates:
            return ()
        credential = (*await self._token(caller), *await self._no_ban(caller))
        if confined or self._authoriser.is_admin(caller):
            return credential
        grants = self._authoriser.grants(caller, permission, namespace)
        records = await self._ledger.read(
            SYSTEM_NAMESPACE, Collection.ROLE_BINDINGS, [grant.binding_id for grant in grants]
        )
        for grant, record in zip(grants, records, strict=True):
            if record is None or not self._still_gives(grant, record.value):
                continue
            if admin_until_ms is not None and _outlasts(admin_until_ms, record.value):
                # The right that ends last comes first: no other one lasts longer.
                why = "who is admin for a while cannot make admins for longer; set a shorter ttl"
                raise PermissionDenied(caller.name, permission, namespace, why)
            return (*credential, _unchanged(Collection.ROLE_BINDINGS, record))
        raise PermissionDenied(caller.name, permission, namespace, "it was just taken away")

    async def _token(self, caller: Caller) -> tuple[Require, ...]:
        if not caller.token_id:
            return ()
        (record,) = await self._ledger.read(
            SYSTEM_NAMESPACE, Collection.API_TOKENS, (caller.token_id,)
        )
        if record is None or record.value.revoked:
            raise CredentialRevoked("the API token", caller.token_id)
        return (_unchanged(Collection.API_TOKENS, record),)

    async def _no_ban(self, caller: Caller) -> tuple[Require, ...]:
        agent = caller.agent
        if agent is None:
            return ()
        key = ban_key(agent.namespace, agent.agent_name)
        (record,) = await self._ledger.read(SYSTEM_NAMESPACE, Collection.BANS, (key,))
        if record is not None:
            raise AgentBanned(agent.namespace, agent.agent_name)
        return (Require(Collection.BANS, key, ABSENT),)

    def _still_gives(self, known: RoleBinding, now: RoleBinding) -> bool:
        """Return whether a binding gives what it gave; its id says subject, role and namespace."""
        same = (known.subject, known.role, known.namespace) == (
            now.subject,
            now.role,
            now.namespace,
        )
        return same and not has_ended(now.expires_at_ms, self._clock.store_ms())


def _outlasts(until_ms: int, binding: RoleBinding) -> bool:
    """Return whether a moment (`NEVER`: there is none) is behind the end of a binding."""
    end_ms = binding.expires_at_ms
    return end_ms != NEVER and (until_ms == NEVER or until_ms > end_ms)


def _unchanged(collection: Collection, record: Record) -> Require:
    return Require(collection, record.key, Expect(revision=record.revision))
