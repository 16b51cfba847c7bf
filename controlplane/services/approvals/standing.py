"""Standing grants: given, listed, taken back, and asked whether one of them holds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from controlplane.domain.approvals.model import BoundAction, StandingGrant
from controlplane.domain.approvals.refusals import StandingGrantNotFound
from controlplane.domain.approvals.standing import (
    MAX_STANDING_GRANTS,
    StandingGrants,
    is_usable,
    require_valid_grant,
)
from controlplane.domain.errors import LimitExceeded
from controlplane.domain.identity import Caller
from controlplane.services.approvals.records import MAX_ROUNDS, contended
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    IdSource,
    Ledger,
    Position,
    Put,
    RequestKey,
    RequireClock,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantPage:
    """Some of the standing grants of a namespace, the newest first."""

    grants: tuple[StandingGrant, ...]
    total: int
    next_cursor: str
    """Where the next page begins; empty on the last one."""
    position: Position


class StandingGrantBook:
    """The standing grants of all namespaces, compiled once per change."""

    def __init__(self) -> None:
        self._compiled: dict[str, tuple[int, StandingGrants]] = {}

    def matching(
        self,
        view: NamespaceView,
        action: BoundAction,
        claims: Mapping[str, Any],
        facts: Mapping[str, Any],
        now_ms: int,
    ) -> Iterable[StandingGrant]:
        """Return the grants that an action can use, the one that ends first at the beginning."""
        table: Mapping[str, StandingGrant] = view.governance.table(Collection.STANDING_GRANTS)
        if not table:
            return ()
        version = view.governance.version(Collection.STANDING_GRANTS)
        key = view.name
        known = self._compiled.get(key)
        if known is None or known[0] != version:
            known = self._compiled[key] = (version, StandingGrants(dict(table)))
        return known[1].matching(action, claims, facts, now_ms)


class StandingGrantKeeper:
    """Gives standing grants and takes them back."""

    def __init__(self, ledger: Ledger, read_model: ReadModel, ids: IdSource, clock: Clock) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._ids = ids
        self._clock = clock

    async def create(
        self,
        namespace: str,
        grant: StandingGrant,
        *,
        request: RequestKey | None,
        caller: Caller,
    ) -> StandingGrant:
        """Grant in advance; `grant` has no id yet.

        Raises:
            InvalidArgument: it says too much, or nothing; names `grant.<field>`.
            LimitExceeded: the namespace has as many as it may.
        """
        replayed = await self._replayed(namespace, request)
        if replayed is not None:
            return replayed
        now_ms = self._clock.store_ms()
        fresh = replace(grant, grant_id=self._ids.new_id("sgr"), created_by=caller.name)
        require_valid_grant(fresh, now_ms)
        table = self._read_model.view(namespace).governance.table(Collection.STANDING_GRANTS)
        if sum(is_usable(one, now_ms) for one in table.values()) >= MAX_STANDING_GRANTS:
            raise LimitExceeded("standing grants of the namespace", limit=MAX_STANDING_GRANTS)
        committed = await self._ledger.commit(
            Transaction(
                namespace=namespace,
                steps=(
                    Put(Collection.STANDING_GRANTS, fresh.grant_id, fresh, ABSENT),
                    RequireClock(not_after_ms=fresh.expires_at_ms),
                ),
                audit=_audit(fresh, "CreateStandingGrant", "standing_grant.created", caller),
                request=request,
                answer=fresh.grant_id,
                durable=True,
            )
        )
        if committed.replayed:
            return await self._stored(namespace, committed.answer)
        return _stamped(fresh, committed)

    async def revoke(
        self, namespace: str, grant_id: str, *, reason: str, caller: Caller
    ) -> StandingGrant:
        """Take a standing grant back; idempotent.

        Raises:
            StandingGrantNotFound: there is none.
        """
        for _ in range(MAX_ROUNDS):
            before = await self._stored(namespace, grant_id)
            if before.revoked_at_ms:
                return before
            after = replace(before, revoked_at_ms=self._clock.store_ms(), revoked_by=caller.name)
            audit = _audit(after, "RevokeStandingGrant", "standing_grant.revoked", caller, reason)
            put = Put(Collection.STANDING_GRANTS, grant_id, after, Expect(revision=before.revision))
            try:
                committed = await self._ledger.commit(
                    Transaction(namespace=namespace, steps=(put,), audit=audit, durable=True)
                )
            except ConditionFailed:
                continue
            return _stamped(after, committed)
        raise contended()

    async def page(
        self, namespace: str, *, active_only: bool, after: str, limit: int, min_revision: int
    ) -> GrantPage:
        """Return grants after a cursor (the id of the last one before), the newest first."""
        view = await self._read_model.at_least(namespace, min_revision)
        now_ms = self._clock.store_ms()
        table: Mapping[str, StandingGrant] = view.governance.table(Collection.STANDING_GRANTS)
        chosen = [one for one in table.values() if not active_only or is_usable(one, now_ms)]
        chosen.sort(key=lambda one: one.grant_id, reverse=True)
        rest = [one for one in chosen if not after or one.grant_id < after]
        grants = tuple(rest[:limit])
        return GrantPage(
            grants=grants,
            total=len(chosen),
            next_cursor=grants[-1].grant_id if len(rest) > limit else "",
            position=view.position,
        )

    async def _replayed(self, namespace: str, request: RequestKey | None) -> StandingGrant | None:
        if request is None:
            return None
        known = await self._ledger.find_request(namespace, request)
        return None if known is None else await self._stored(namespace, known.answer)

    async def _stored(self, namespace: str, grant_id: str) -> StandingGrant:
        (record,) = await self._ledger.read(namespace, Collection.STANDING_GRANTS, (grant_id,))
        if record is None:
            raise StandingGrantNotFound(grant_id)
        grant: StandingGrant = record.value
        return grant


def _audit(
    grant: StandingGrant, method: str, event: str, caller: Caller, reason: str = ""
) -> AuditEntry:
    return AuditEntry(
        actor=caller.name,
        method=method,
        object=f"standing-grants/{grant.grant_id}",
        event=event,
        reason=reason or grant.reason,
        details={
            "agent": grant.agent_name or grant.agent_id,
            "action": grant.action,
            "max_uses": str(grant.max_uses),
            "expires_at_ms": str(grant.expires_at_ms),
        },
    )


def _stamped(grant: StandingGrant, committed: Committed) -> StandingGrant:
    created = grant.created_at_ms or committed.at_ms
    return replace(grant, revision=committed.revision, created_at_ms=created)
