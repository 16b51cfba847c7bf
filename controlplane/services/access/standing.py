"""What a right rested on when it was used: conditions of the transaction that uses it.

A replica learns of a change within milliseconds, at worst two seconds. In that time an
administrator who was just removed could make himself one again, and the removal would be for
nothing. So changes of rights are committed on condition that the binding and the token they rest on
are still there: the store refuses what a replica does not know yet.
"""

from controlplane.domain.access.decision import has_ended
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.records import SYSTEM_NAMESPACE, RoleBinding
from controlplane.domain.access.refusals import CredentialRevoked, PermissionDenied
from controlplane.domain.identity import Caller
from controlplane.services.access.authoriser import Authoriser
from controlplane.services.ports import Clock, Collection, Expect, Ledger, Record, Require


class Standing:
    """Turns the rights of a caller into conditions."""

    def __init__(self, ledger: Ledger, clock: Clock, authoriser: Authoriser) -> None:
        self._ledger = ledger
        self._clock = clock
        self._authoriser = authoriser

    async def conditions(
        self, caller: Caller, permission: Permission, namespace: str
    ) -> tuple[Require, ...]:
        """Return what has to be as it is for a caller to have a permission, by the ledger itself.

        Nothing for those whose right does not come from a binding: everybody without
        authentication, the admins of the settings, agents that act as themselves.

        Raises:
            DomainError: whatever `Authoriser.authorise` refuses with, and PermissionDenied or
                CredentialRevoked for what this replica does not know yet.
        """
        confined = self._authoriser.authorise(caller, permission, namespace)
        if not self._authoriser.authenticates:
            return ()
        token = await self._token(caller)
        if confined or self._authoriser.is_admin(caller):
            return token
        grants = self._authoriser.grants(caller, permission, namespace)
        records = await self._ledger.read(
            SYSTEM_NAMESPACE, Collection.ROLE_BINDINGS, [grant.binding_id for grant in grants]
        )
        for grant, record in zip(grants, records, strict=True):
            if record is not None and self._still_gives(grant, record.value):
                return (*token, _unchanged(Collection.ROLE_BINDINGS, record))
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

    def _still_gives(self, known: RoleBinding, now: RoleBinding) -> bool:
        """Return whether a binding gives what it gave; its id says subject, role and namespace."""
        same = (known.subject, known.role, known.namespace) == (
            now.subject,
            now.role,
            now.namespace,
        )
        return same and not has_ended(now.expires_at_ms, self._clock.store_ms())


def _unchanged(collection: Collection, record: Record) -> Require:
    return Require(collection, record.key, Expect(revision=record.revision))
