"""Bans: agent names that are shut out, whatever they show."""

from bisect import bisect_right
from dataclasses import dataclass, replace

from controlplane.domain.access.name_patterns import check_agent_name
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.records import SYSTEM_NAMESPACE, Ban, ban_key
from controlplane.domain.identity import Caller
from controlplane.services.access.authoriser import Authoriser
from controlplane.services.access.minting import MAX_ROUNDS, contended
from controlplane.services.access.room import check_room
from controlplane.services.access.standing import Standing
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Clock,
    Collection,
    ConditionFailed,
    Delete,
    Expect,
    Ledger,
    Put,
    Transaction,
)
from controlplane.services.read_model import ReadModel


@dataclass(frozen=True, slots=True, kw_only=True)
class BanPage:
    """Some of the bans of a namespace, by agent name."""

    bans: tuple[Ban, ...]
    next_cursor: str
    """Where the next page begins; empty on the last one."""


class Bans:
    """Keeps bans. Its callers have to administer the namespace."""

    def __init__(
        self, ledger: Ledger, read_model: ReadModel, clock: Clock, authoriser: Authoriser
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._standing = Standing(ledger, clock, authoriser)

    async def ban(self, namespace: str, agent_name: str, *, reason: str, caller: Caller) -> Ban:
        """Shut an agent name out, known here or not. Who bans it again gets the ban that stands.

        Raises:
            InvalidArgument: `agent_name` cannot be the name of an agent.
            PermissionDenied: the caller does not administer the namespace, or no longer.
            QuotaExceeded: the namespace has as many bans as it may.
            StoreUnavailable: too many callers change it at once, or the store is away.
        """
        check_agent_name(agent_name)
        key = ban_key(namespace, agent_name)
        ban = Ban(namespace=namespace, agent_name=agent_name, reason=reason, banned_by=caller.name)
        for _ in range(MAX_ROUNDS):
            standing = await self._standing.conditions(caller, Permission.ADMINISTER, namespace)
            (record,) = await self._ledger.read(SYSTEM_NAMESPACE, Collection.BANS, (key,))
            if record is not None:
                present: Ban = record.value
                return present
            check_room(self._read_model.access, Collection.BANS, namespace)
            transaction = Transaction(
                namespace=SYSTEM_NAMESPACE,
                steps=(Put(Collection.BANS, key, ban, ABSENT), *standing),
                audit=_audit(ban, "BanAgent", "agent.banned", reason, caller),
            )
            try:
                committed = await self._ledger.commit(transaction)
            except ConditionFailed:
                continue
            return replace(ban, created_at_ms=committed.at_ms, revision=committed.revision)
        raise contended(f"the ban of agent {agent_name!r}")

    async def unban(self, namespace: str, agent_name: str, *, reason: str, caller: Caller) -> bool:
        """Take a ban back; return whether there was one.

        Raises:
            InvalidArgument: `agent_name` cannot be the name of an agent.
            PermissionDenied: the caller does not administer the namespace, or no longer.
            StoreUnavailable: too many callers change it at once, or the store is away.
        """
        check_agent_name(agent_name)
        key = ban_key(namespace, agent_name)
        for _ in range(MAX_ROUNDS):
            standing = await self._standing.conditions(caller, Permission.ADMINISTER, namespace)
            (record,) = await self._ledger.read(SYSTEM_NAMESPACE, Collection.BANS, (key,))
            if record is None:
                return False
            transaction = Transaction(
                namespace=SYSTEM_NAMESPACE,
                steps=(
                    Delete(Collection.BANS, key, Expect(revision=record.revision)),
                    *standing,
                ),
                audit=_audit(record.value, "UnbanAgent", "agent.unbanned", reason, caller),
            )
            try:
                await self._ledger.commit(transaction)
            except ConditionFailed:
                continue
            return True
        raise contended(f"the ban of agent {agent_name!r}")

    async def page(self, namespace: str, *, after: str, limit: int) -> BanPage:
        """Return at most `limit` bans behind a cursor (an agent name), by agent name.

        Raises:
            NotReady: nothing is loaded yet.
        """
        bans = self._read_model.access.held_in(Collection.BANS, namespace).values()
        own = {ban.agent_name: ban for ban in bans}
        names = sorted(own)
        start = bisect_right(names, after) if after else 0
        chosen = names[start : start + limit]
        more = start + limit < len(names)
        return BanPage(
            bans=tuple(own[name] for name in chosen), next_cursor=chosen[-1] if more else ""
        )


def _audit(ban: Ban, method: str, event: str, reason: str, caller: Caller) -> AuditEntry:
    return AuditEntry(
        actor=caller.name,
        method=method,
        object=f"bans/{ban_key(ban.namespace, ban.agent_name)}",
        event=event,
        reason=reason,
        details={"namespace": ban.namespace, "agent_name": ban.agent_name},
    )
