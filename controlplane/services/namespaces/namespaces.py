"""Namespaces as objects: made, described, bounded, listed and removed.

Their records live in the system namespace, which every replica follows. `default` exists always,
with a record or without. Where nobody is authenticated a namespace also exists by its use, as long
as there is something in it.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.domain.access.refusals import (
    NamespaceExists,
    NamespaceNotEmpty,
    NamespaceNotFound,
    NamespaceTerminating,
)
from controlplane.domain.errors import RevisionConflict, StoreUnavailable
from controlplane.domain.identity import DEFAULT_NAMESPACE, Caller
from controlplane.domain.namespace_rules import (
    Content,
    check_namespace,
    check_new_name,
    check_removable,
    labelled,
)
from controlplane.domain.namespaces import Namespace, NamespaceState, Quotas
from controlplane.services.namespaces.removal import NamespaceRemoval, namespace_audit
from controlplane.services.namespaces.usage import content_of
from controlplane.services.ports import (
    ABSENT,
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import ReadModel

MAX_ROUNDS: Final = 5
"""Rounds of read-decide-commit before contention is reported: namespaces are changed by hand."""

_RESERVED: Final = "@"
"""What names of namespaces that belong to the plane itself begin with."""


class Sight(Protocol):
    """Who may see what; `access.authoriser.Authoriser` is one."""

    @property
    def authenticates(self) -> bool:
        """Whether callers have to show who they are."""

    def places_of(self, caller: Caller) -> frozenset[str] | None:
        """Return the namespaces where a caller has a role; None: in all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceChange:
    """What UpdateNamespace asks for.

    Attributes:
        description: The new one; None: as it is.
        labels: Labels to set; an empty value removes one.
        quotas: The new bounds, all of them; None: as they are.
        expected_revision: What the caller has seen; 0: any.
        reason: Why.
    """

    description: str | None = None
    labels: Mapping[str, str]
    quotas: Quotas | None = None
    expected_revision: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespacePage:
    """Some of the namespaces that a caller may see, by name."""

    namespaces: tuple[Namespace, ...]
    next_cursor: str
    """Where the next page begins; empty on the last one."""


class Namespaces:
    """Keeps the objects. Any method may raise NotReady or StoreUnavailable."""

    def __init__(
        self, ledger: Ledger, read_model: ReadModel, sight: Sight, removal: NamespaceRemoval
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._sight = sight
        self._removal = removal

    async def create(
        self, namespace: Namespace, *, request: RequestKey | None, caller: Caller
    ) -> Namespace:
        """Make a namespace. One that exists by its use gets an object by it.

        Raises:
            InvalidArgument: with every violation; see `namespace_rules`.
            NamespaceExists: the name is taken, also by one that is being removed.
            NamespaceNotFound: the request came before, and its namespace was removed since.
            RequestIdReused: the request was something else.
        """
        name = namespace.name
        check_new_name(name)
        fresh = replace(namespace, labels=labelled({}, namespace.labels), created_by=caller.name)
        check_namespace(fresh)
        if name == DEFAULT_NAMESPACE:
            raise NamespaceExists(name)
        transaction = Transaction(
            namespace=SYSTEM_NAMESPACE,
            steps=(Put(Collection.NAMESPACES, name, fresh, ABSENT, fresh_generation=True),),
            audit=namespace_audit(caller.name, "CreateNamespace", name, "created", request=request),
            request=request,
            answer=name,
        )
        try:
            committed = await self._ledger.commit(transaction)
        except ConditionFailed:
            raise NamespaceExists(name) from None
        if committed.replayed:
            stored = await self._stored(committed.answer)
            if stored is None:
                raise NamespaceNotFound(committed.answer)
            return stored
        return replace(_stamped(fresh, committed), created_at_ms=committed.at_ms)

    def get(self, name: str) -> Namespace:
        """Return a namespace.

        Raises:
            NamespaceNotFound: there is none.
        """
        known = self._read_model.access.namespaces.get(name)
        return known if known is not None else self._by_use(name)

    def page(self, caller: Caller, *, after: str, limit: int) -> NamespacePage:
        """Return at most `limit` namespaces behind a cursor (a name), by name.

        Only those that the caller may see, and none of the plane's own.
        """
        names = self._names(self._sight.places_of(caller))
        start = bisect_right(names, after)
        chosen = names[start : start + limit]
        more = start + limit < len(names)
        return self._rendered(chosen, next_cursor=chosen[-1] if more else "")

    async def update(self, name: str, change: NamespaceChange, *, caller: Caller) -> Namespace:
        """Change a namespace; one without an object, such as `default`, gets one by it.

        Changing nothing writes nothing.

        Raises:
            InvalidArgument: with every violation of the result; see `namespace_rules`.
            NamespaceNotFound: there is none.
            NamespaceTerminating: it is being removed.
            RevisionConflict: it is not at the expected revision.
            StoreUnavailable: too many callers change it at once.
        """
        for _ in range(MAX_ROUNDS):
            before = await self._stored(name)
            if before is None:
                before = self._by_use(name)
            _check_revision(before, change.expected_revision)
            if before.state is NamespaceState.TERMINATING:
                raise NamespaceTerminating(name)
            after = _changed(before, change)
            check_namespace(after)
            if after == before:
                return before
            transaction = Transaction(
                namespace=SYSTEM_NAMESPACE,
                steps=(Put(Collection.NAMESPACES, name, after, Expect(revision=before.revision)),),
                audit=namespace_audit(
                    caller.name,
                    "UpdateNamespace",
                    name,
                    "updated",
                    reason=change.reason,
                    details={"before_revision": str(before.revision)},
                ),
            )
            try:
                return _stamped(after, await self._ledger.commit(transaction))
            except ConditionFailed:
                continue
        raise _contended(name)

    async def delete(
        self, name: str, *, expected_revision: int, reason: str, caller: Caller
    ) -> bool:
        """Remove an empty namespace; return False if there is none.

        It refuses writes from the first moment. The call lasts until every replica knows that, see
        `removal.SETTLE_SECONDS`; who gives up before leaves it to the replicas to finish. If it
        is being removed already, this waits for the same end.

        Raises:
            InvalidArgument: it is `default`.
            NamespaceNotEmpty: something is in it, or got in before every replica knew; it is then
                in use as before.
            RevisionConflict: it is not at `expected_revision` (0: any).
            StoreUnavailable: too many callers change it at once.
        """
        check_removable(name)
        for _ in range(MAX_ROUNDS):
            record = await self._stored(name)
            if record is None:
                _refuse_content(name, self._content_by_use(name))
                return False
            if record.state is NamespaceState.ACTIVE:
                _check_revision(record, expected_revision)
                _refuse_content(name, content_of(self._read_model.view(name)))
                try:
                    record = await self._removal.begin(record, reason=reason, caller=caller)
                except ConditionFailed:
                    continue
            await self._removal.settled(record)
            outcome = await self._removal.finish(record, actor=caller.name)
            if outcome is None:
                continue
            _refuse_content(name, outcome)
            return True
        raise _contended(name)

    def _names(self, places: frozenset[str] | None) -> Sequence[str]:
        """Return the namespaces that there are, of some places or of all."""
        known = self._read_model.access.namespaces
        if places is not None:
            return sorted(name for name in places if name == DEFAULT_NAMESPACE or name in known)
        names = {DEFAULT_NAMESPACE, *known}
        if not self._sight.authenticates:
            names.update(
                name
                for name in self._read_model.views()
                if name not in names and not self._content_by_use(name).is_empty
            )
        return sorted(name for name in names if not name.startswith(_RESERVED))

    def _rendered(self, names: Sequence[str], *, next_cursor: str) -> NamespacePage:
        known = self._read_model.access.namespaces
        return NamespacePage(
            namespaces=tuple(known.get(name) or Namespace(name=name) for name in names),
            next_cursor=next_cursor,
        )

    def _by_use(self, name: str) -> Namespace:
        """Return a namespace that has no object.

        Raises:
            NamespaceNotFound: there is nothing in it either.
        """
        if name == DEFAULT_NAMESPACE or not self._content_by_use(name).is_empty:
            return Namespace(name=name)
        raise NamespaceNotFound(name)

    def _content_by_use(self, name: str) -> Content:
        """Return what makes a namespace exist by its use: nothing where callers are known."""
        if self._sight.authenticates or name.startswith(_RESERVED):
            return Content()
        return content_of(self._read_model.view(name))

    async def _stored(self, name: str) -> Namespace | None:
        (record,) = await self._ledger.read(SYSTEM_NAMESPACE, Collection.NAMESPACES, (name,))
        return record.value if record is not None else None


def _changed(before: Namespace, change: NamespaceChange) -> Namespace:
    return replace(
        before,
        description=before.description if change.description is None else change.description,
        labels=labelled(before.labels, change.labels),
        quotas=before.quotas if change.quotas is None else change.quotas,
    )


def _stamped(namespace: Namespace, committed: Committed) -> Namespace:
    return replace(namespace, revision=committed.revision, updated_at_ms=committed.at_ms)


def _check_revision(namespace: Namespace, expected: int) -> None:
    if expected not in {0, namespace.revision}:
        raise RevisionConflict(
            f"namespace {namespace.name!r}", expected=expected, current=namespace.revision
        )


def _refuse_content(name: str, content: Content) -> None:
    if not content.is_empty:
        raise NamespaceNotEmpty(name, content.holds())


def _contended(name: str) -> StoreUnavailable:
    return StoreUnavailable(f"too many callers change namespace {name!r} at once")
