"""Routes set by hand: written to the ledger, read from memory. `route_choice.py` follows them."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from secrets import token_hex

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.errors import (
    AgentNotFound,
    FieldViolation,
    InvalidArgument,
    RevisionConflict,
    StoreUnavailable,
)
from controlplane.domain.identity import Caller
from controlplane.domain.rollouts.model import active_rollout_key
from controlplane.domain.route_rules import validate_shares
from controlplane.domain.routes import Route, Share
from controlplane.domain.work_refusals import (
    RolloutActive,
    RouteNotFound,
)
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Collection,
    ConditionFailed,
    Delete,
    Expect,
    Ledger,
    Position,
    Put,
    RequestKey,
    Require,
    Transaction,
)
from controlplane.services.read_model import ReadModel

MAX_ROUNDS = 5
"""Rounds of read-decide-commit before contention is reported: an operator and a rollout may meet,
but not five times in a few milliseconds."""

_SALT_BYTES = 8
"""Random bytes of a salt: no two routes deal alike, and nobody can foresee where a session goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePage:
    """Some of the routes of a namespace, by agent name."""

    routes: tuple[Route, ...]
    total: int
    """How many there are in all."""
    next_cursor: str
    """Where the next page begins; empty on the last one."""
    position: Position
    """What the page reflects."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the ledger says about a name."""

    route: Route | None
    rollout_id: str
    """Who owns the name; empty: nobody."""

    @property
    def revision(self) -> int:
        return self.route.revision if self.route is not None else 0


class Routes:
    """Keeps the routes that operators set. Those of a rollout are written by the rollout."""

    def __init__(self, ledger: Ledger, read_model: ReadModel) -> None:
        self._ledger = ledger
        self._read_model = read_model

    async def set(
        self,
        namespace: str,
        name: str,
        shares: Sequence[tuple[str, int]],
        *,
        reason: str,
        expected_revision: int,
        request: RequestKey | None,
        caller: Caller,
    ) -> Route:
        """Give the versions of an agent name their shares: (version, basis points) in order.

        The salt is made with the route and kept as long as it exists, so other weights move only
        the sessions that they must. Setting what is set already, for the same reason, writes
        nothing.

        Raises:
            InvalidArgument: see `route_rules.validate_shares`; or a version is decommissioned.
            AgentNotFound: a version is not registered; named as `name@version`.
            RolloutActive: a rollout of that agent is under way.
            RevisionConflict: the route is not at `expected_revision` (0: any).
            StoreUnavailable: too many callers change it at once.
        """
        validate_shares(shares)
        for _ in range(MAX_ROUNDS):
            if request is not None and await self._ledger.find_request(namespace, request):
                return await self._existing(namespace, name)
            dealt = await self._dealt(namespace, name, shares)
            stored = await self._stored(namespace, name)
            _check(name, stored, expected_revision)
            before = stored.route
            if before is not None and (before.shares, before.reason) == (dealt, reason):
                return before
            salt = before.salt if before is not None else token_hex(_SALT_BYTES)
            after = Route(name=name, shares=dealt, salt=salt, set_by=caller.name, reason=reason)
            unchanged = Expect(revision=stored.revision)
            transaction = Transaction(
                namespace=namespace,
                steps=(
                    Put(Collection.ROUTES, name, after, unchanged),
                    _no_rollout_of(name),
                ),
                audit=_audit(caller, "SetRoute", after, "route.set", reason, request),
                request=request,
                answer=name,
            )
            try:
                committed = await self._ledger.commit(transaction)
            except ConditionFailed:
                continue
            if committed.replayed:
                return await self._existing(namespace, name)
            return replace(after, revision=committed.revision, updated_at_ms=committed.at_ms)
        raise _contended(name)

    async def get(self, namespace: str, name: str, *, min_revision: int) -> Route:
        """Return the route of an agent name.

        Raises:
            RouteNotFound: it has none.
            NotReady: `min_revision` was not reached in time, or nothing is loaded yet.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        route = view.work.routes.get(name)
        if route is None:
            raise RouteNotFound(name)
        return route

    async def page(self, namespace: str, *, after: str, limit: int, min_revision: int) -> RoutePage:
        """Return at most `limit` routes behind a cursor (an agent name), by agent name.

        Raises:
            NotReady: `min_revision` was not reached in time, or nothing is loaded yet.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        names = sorted(view.work.routes)
        start = bisect_right(names, after) if after else 0
        chosen = names[start : start + limit]
        more = start + limit < len(names)
        return RoutePage(
            routes=tuple(view.work.routes[name] for name in chosen),
            total=len(names),
            next_cursor=chosen[-1] if more else "",
            position=view.position,
        )

    async def delete(
        self, namespace: str, name: str, *, reason: str, expected_revision: int, caller: Caller
    ) -> int:
        """Remove a route; return the revision of the removal, 0 if there was none.

        Every active version is eligible again. A later route of the name deals anew.

        Raises:
            RolloutActive: a rollout of that agent is under way.
            RevisionConflict: the route is not at `expected_revision` (0: any).
            StoreUnavailable: too many callers change it at once.
        """
        for _ in range(MAX_ROUNDS):
            stored = await self._stored(namespace, name)
            if stored.route is None:
                return 0
            _check(name, stored, expected_revision)
            unchanged = Expect(revision=stored.revision)
            transaction = Transaction(
                namespace=namespace,
                steps=(
                    Delete(Collection.ROUTES, name, unchanged),
                    _no_rollout_of(name),
                ),
                audit=_audit(caller, "DeleteRoute", stored.route, "route.deleted", reason, None),
            )
            try:
                return (await self._ledger.commit(transaction)).revision
            except ConditionFailed:
                continue
        raise _contended(name)

    async def _stored(self, namespace: str, name: str) -> _Stored:
        (record,) = await self._ledger.read(namespace, Collection.ROUTES, (name,))
        (owner,) = await self._ledger.read(
            namespace, Collection.ACTIVE_ROLLOUTS, (active_rollout_key(name),)
        )
        route: Route | None = record.value if record is not None else None
        rollout_id = route.rollout_id if route is not None else ""
        return _Stored(route, rollout_id or (owner.value if owner is not None else ""))

    async def _existing(self, namespace: str, name: str) -> Route:
        """Return the route that an earlier try of the same request left, as it is now."""
        stored = await self._stored(namespace, name)
        if stored.route is None:
            raise RouteNotFound(name)
        return stored.route

    async def _dealt(
        self, namespace: str, name: str, shares: Sequence[tuple[str, int]]
    ) -> tuple[Share, ...]:
        """Return the shares with their agents, as the ledger knows them."""
        names = [f"{name}@{version}" for version, _ in shares]
        records = await self._ledger.read(namespace, Collection.NAMES, names)
        for name_version, record in zip(names, records, strict=True):
            if record is None:
                raise AgentNotFound(name_version)
        agent_ids: list[str] = [record.value for record in records if record is not None]
        agents = await self._ledger.read(namespace, Collection.AGENTS, agent_ids)
        gone = [
            FieldViolation(f"shares[{index}].version", f"{names[index]} is decommissioned")
            for index, record in enumerate(agents)
            if record is not None and _is_gone(record.value)
        ]
        if gone:
            raise InvalidArgument(*gone)
        return tuple(
            Share(agent_id=agent_id, version=version, weight_bp=weight_bp)
            for agent_id, (version, weight_bp) in zip(agent_ids, shares, strict=True)
        )


def _is_gone(agent: Agent) -> bool:
    return agent.status is AgentStatus.DECOMMISSIONED


def _no_rollout_of(name: str) -> Require:
    """Return the condition that no rollout of the name began in the meantime."""
    return Require(Collection.ACTIVE_ROLLOUTS, active_rollout_key(name), ABSENT)


def _check(name: str, stored: _Stored, expected_revision: int) -> None:
    if stored.rollout_id:
        raise RolloutActive(name, stored.rollout_id)
    if expected_revision not in {0, stored.revision}:
        raise RevisionConflict(
            f"the route of agent {name!r}", expected=expected_revision, current=stored.revision
        )


def _contended(name: str) -> StoreUnavailable:
    return StoreUnavailable(f"too many callers change the route of agent {name!r} at once")


def _audit(
    caller: Caller,
    method: str,
    route: Route,
    event: str,
    reason: str,
    request: RequestKey | None,
) -> AuditEntry:
    return AuditEntry(
        actor=caller.name,
        method=method,
        object=f"routes/{route.name}",
        event=event,
        reason=reason,
        request_id=request.request_id if request is not None else "",
        details={"shares": ",".join(f"{one.version}={one.weight_bp}" for one in route.shares)},
    )
