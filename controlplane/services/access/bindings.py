"""Role bindings: written to the ledger, read from memory. `authoriser.py` follows them."""

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.access.decision import NEVER, has_ended
from controlplane.domain.access.permissions import EVERYWHERE, Permission, RoleName
from controlplane.domain.access.records import SYSTEM_NAMESPACE, RoleBinding, binding_id_of
from controlplane.domain.access.refusals import NamespaceTerminating
from controlplane.domain.access.subjects import check_subject, is_pattern
from controlplane.domain.errors import RequestIdReused, StoreUnavailable
from controlplane.domain.identity import Caller
from controlplane.domain.namespaces import Namespace, NamespaceState
from controlplane.services.access.authoriser import Authoriser
from controlplane.services.access.room import check_room, check_room_for_pattern
from controlplane.services.access.standing import Standing
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    Delete,
    Expect,
    Ledger,
    Put,
    RequestKey,
    Require,
    Transaction,
)
from controlplane.services.read_model import ReadModel

MAX_ROUNDS: Final = 5
"""Rounds of read-decide-commit before contention is reported: two administrators may meet, but not
five times in a few milliseconds."""

_SEPARATOR: Final = "\n"  # of a cursor's parts: none of them may hold what does not print

_SortKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingPage:
    """Some of the bindings of a namespace, by subject, then by role."""

    bindings: tuple[RoleBinding, ...]
    next_cursor: str
    """Where the next page begins; empty on the last one."""


class Bindings:
    """Gives roles to subjects, and takes them away."""

    def __init__(
        self, ledger: Ledger, read_model: ReadModel, clock: Clock, authoriser: Authoriser
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._standing = Standing(ledger, clock, authoriser)

    async def create(
        self,
        namespace: str,
        subject: str,
        role: RoleName,
        *,
        description: str,
        ttl_ms: int,
        request: RequestKey | None,
        caller: Caller,
    ) -> RoleBinding:
        """Give a subject a role in a namespace (`EVERYWHERE`: in all of them).

        There is one binding of a subject to a role in a namespace. Making it again with the same
        description and without an end, as it is, writes nothing; whatever differs replaces it.

        Args:
            namespace: Where the role holds.
            subject: Who; see `domain/access/subjects.py`.
            role: Which role.
            description: Why.
            ttl_ms: How long it holds from now on, in ms; `NEVER`: for ever.
            request: Makes a retry safe.
            caller: Who gives it.

        Raises:
            InvalidArgument: field `subject`.
            DomainError: the caller is not admin there; see `Authoriser.authorise`.
            PermissionDenied: also if the role is admin, for longer than the caller's own right.
            QuotaExceeded: the namespace has as many bindings, or patterns in them, as it may.
            NamespaceTerminating: the namespace is being removed.
            RequestIdReused: the request_id is known with other content.
            StoreUnavailable: the store is away, or too many callers change it at once.
        """
        wanted = RoleBinding(
            binding_id=binding_id_of(check_subject(subject), role, namespace),
            subject=subject,
            role=role.value,
            namespace=namespace,
            description=description,
            created_by=caller.name,
            expires_at_ms=self._clock.store_ms() + ttl_ms if ttl_ms else NEVER,
        )
        try:
            return await self._create(wanted, request, caller)
        except RequestIdReused as refusal:
            scoped = refusal.metadata["request_id"]
            raise RequestIdReused(scoped.removeprefix(_scope(namespace))) from None

    async def _create(
        self, wanted: RoleBinding, request: RequestKey | None, caller: Caller
    ) -> RoleBinding:
        namespace, remembered = wanted.namespace, _scoped(request, wanted.namespace)
        for _ in range(MAX_ROUNDS):
            standing = await self._standing.conditions(
                caller,
                Permission.ADMINISTER,
                namespace,
                admin_until_ms=wanted.expires_at_ms if wanted.role == RoleName.ADMIN else None,
            )
            if remembered is not None:
                first = await self._ledger.find_request(SYSTEM_NAMESPACE, remembered)
                if first is not None:
                    return await self._made(wanted, first)
            present = await self._stored(wanted.binding_id)
            if present is not None and self._says_the_same(present, wanted):
                return present
            if present is None:
                self._check_room(wanted)
            unchanged = Expect(revision=present.revision if present is not None else 0)
            transaction = Transaction(
                namespace=SYSTEM_NAMESPACE,
                steps=(
                    Put(
                        Collection.ROLE_BINDINGS,
                        wanted.binding_id,
                        wanted,
                        unchanged,
                        fresh_generation=True,
                    ),
                    *await self._open_namespace(namespace),
                    *standing,
                ),
                audit=_audit(caller, "CreateRoleBinding", wanted, wanted.description, request),
                request=remembered,
                answer=wanted.binding_id,
            )
            try:
                committed = await self._ledger.commit(transaction)
            except ConditionFailed:
                continue
            if committed.replayed:
                return await self._made(wanted, committed)
            return replace(wanted, revision=committed.revision, created_at_ms=committed.at_ms)
        raise _contended(wanted.binding_id)

    async def _made(self, wanted: RoleBinding, first: Committed) -> RoleBinding:
        """Return what an earlier try of the same request made, as it is now.

        If it was taken away since, return it as it was then.
        """
        present = await self._stored(wanted.binding_id)
        if present is not None:
            return present
        return replace(wanted, revision=first.revision, created_at_ms=first.at_ms)

    def page(self, namespace: str, *, subject: str, after: str, limit: int) -> BindingPage:
        """Return at most `limit` bindings behind a cursor, by subject.

        Only those that were made for this very namespace: in one, those that hold everywhere are
        not shown. Bindings that have expired are, until they are deleted.

        Args:
            namespace: Where; `EVERYWHERE`: those that hold everywhere.
            subject: Only those of this subject, word for word; empty: all.
            after: The cursor of the previous page; empty: from the beginning.
            limit: Most bindings of the page.

        Raises:
            NotReady: nothing is loaded yet.
        """
        held = self._read_model.access.held_in(Collection.ROLE_BINDINGS, namespace)
        chosen = sorted(
            (binding for binding in held.values() if subject in {"", binding.subject}),
            key=_sort_key,
        )
        start = bisect_right(chosen, _position(after), key=_sort_key) if after else 0
        some = tuple(chosen[start : start + limit])
        more = start + limit < len(chosen)
        return BindingPage(
            bindings=some, next_cursor=_SEPARATOR.join(_sort_key(some[-1])) if more else ""
        )

    async def delete(self, namespace: str, binding_id: str, *, reason: str, caller: Caller) -> bool:
        """Take a binding of a namespace away; return False if there was none.

        A binding of another namespace is none, whoever asks.

        Raises:
            DomainError: the caller is not admin there; see `Authoriser.authorise`.
            StoreUnavailable: the store is away, or too many callers change it at once.
        """
        for _ in range(MAX_ROUNDS):
            standing = await self._standing.conditions(caller, Permission.ADMINISTER, namespace)
            present = await self._stored(binding_id)
            if present is None or present.namespace != namespace:
                return False
            unchanged = Expect(revision=present.revision)
            transaction = Transaction(
                namespace=SYSTEM_NAMESPACE,
                steps=(Delete(Collection.ROLE_BINDINGS, binding_id, unchanged), *standing),
                audit=_audit(caller, "DeleteRoleBinding", present, reason, None),
            )
            try:
                await self._ledger.commit(transaction)
            except ConditionFailed:
                continue
            return True
        raise _contended(binding_id)

    def _check_room(self, wanted: RoleBinding) -> None:
        access, namespace = self._read_model.access, wanted.namespace
        check_room(access, Collection.ROLE_BINDINGS, namespace)
        if is_pattern(wanted.subject):
            check_room_for_pattern(access, namespace)

    async def _stored(self, binding_id: str) -> RoleBinding | None:
        (record,) = await self._ledger.read(
            SYSTEM_NAMESPACE, Collection.ROLE_BINDINGS, (binding_id,)
        )
        return None if record is None else record.value

    def _says_the_same(self, present: RoleBinding, wanted: RoleBinding) -> bool:
        return (present.description, present.expires_at_ms) == (
            wanted.description,
            wanted.expires_at_ms,
        ) and not has_ended(present.expires_at_ms, self._clock.store_ms())

    async def _open_namespace(self, namespace: str) -> tuple[Require, ...]:
        """Return the condition that a namespace is not removed while it gets a binding.

        Otherwise the binding would be left behind, and give rights in the next namespace of that
        name.
        """
        if namespace == EVERYWHERE:
            return ()
        (record,) = await self._ledger.read(SYSTEM_NAMESPACE, Collection.NAMESPACES, (namespace,))
        if record is None:
            return (Require(Collection.NAMESPACES, namespace, ABSENT),)
        known: Namespace = record.value
        if known.state is NamespaceState.TERMINATING:
            raise NamespaceTerminating(namespace)
        return (Require(Collection.NAMESPACES, namespace, Expect(revision=record.revision)),)


def _scoped(request: RequestKey | None, namespace: str) -> RequestKey | None:
    """Return a request key that no other namespace can collide with.

    All of them share the system namespace, but not the request_ids of their callers.
    """
    if request is None:
        return None
    return RequestKey(_scope(namespace) + request.request_id, request.digest)


def _scope(namespace: str) -> str:
    return f"{namespace}/"


def _sort_key(binding: RoleBinding) -> _SortKey:
    return (binding.subject, binding.role, binding.binding_id)


def _position(cursor: str) -> _SortKey:
    subject, role, binding_id = cursor.split(_SEPARATOR)
    return (subject, role, binding_id)


def _contended(binding_id: str) -> StoreUnavailable:
    return StoreUnavailable(f"too many callers change binding {binding_id!r} at once")


def _audit(
    caller: Caller, method: str, binding: RoleBinding, reason: str, request: RequestKey | None
) -> AuditEntry:
    event = "binding.created" if method == "CreateRoleBinding" else "binding.deleted"
    return AuditEntry(
        actor=caller.name,
        method=method,
        object=f"bindings/{binding.binding_id}",
        event=event,
        reason=reason,
        request_id=request.request_id if request is not None else "",
        details={
            "namespace": binding.namespace,
            "subject": binding.subject,
            "role": binding.role,
            "expires_at_ms": str(binding.expires_at_ms),
        },
    )
