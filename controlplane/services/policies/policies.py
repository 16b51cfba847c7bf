"""Policies: written to the ledger, read from memory. `decisions.py` asks them."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from controlplane.domain.errors import (
    FieldViolation,
    InvalidArgument,
    LimitExceeded,
    PolicyExists,
    PolicyNotFound,
    RevisionConflict,
    StoreUnavailable,
)
from controlplane.domain.identity import Caller
from controlplane.domain.namespaces import Quota
from controlplane.domain.policies import (
    Policy,
    lint,
    validate_policy,
)
from controlplane.domain.policy_sets.history import ChangeKind, PolicyChange
from controlplane.services.namespaces.quotas import NO_QUOTAS, QuotaKeeper
from controlplane.services.policies.head import change_steps
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Collection,
    Committed,
    ConditionFailed,
    Delete,
    Expect,
    Ledger,
    Position,
    Put,
    Record,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

MAX_ATTEMPTS = 8
"""Rounds of read-change-commit before contention is reported (see services/registry.py)."""

LINTED_POLICIES = 200
"""Above this many policies of one priority a write is linted alone: lint grows with the square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPage:
    """Some of the policies of a namespace."""

    policies: tuple[Policy, ...]
    total: int
    position: Position
    next_cursor: str
    """Where the next page begins; empty on the last one."""


class Policies:
    """Keeps the policies of a namespace."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        *,
        max_policies: int,
        quotas: QuotaKeeper = NO_QUOTAS,
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._quotas = quotas
        self._max_policies = max_policies

    async def create(
        self,
        namespace: str,
        policy: Policy,
        *,
        reason: str,
        request: RequestKey | None,
        dry_run: bool,
        caller: Caller,
    ) -> tuple[Policy, tuple[str, ...]]:
        """Add a policy; returns it with the remarks of the linter.

        Raises:
            InvalidArgument: with every violation, as `policy.<path>`.
            PolicyExists: its id is taken.
            LimitExceeded: the namespace holds too many; QuotaExceeded by its own quota.
        """
        policy = replace(policy, updated_by=caller.name)
        require_valid(policy)
        view = self._read_model.view(namespace)
        if len(view.policies) >= self._max_policies and policy.policy_id not in view.policies:
            raise LimitExceeded("policies per namespace", limit=self._max_policies)
        remarks = warnings_about(view, policy)
        policy_id = policy.policy_id
        with self._quotas.claims(namespace) as claims:
            if policy_id not in view.policies:
                claims.take(Quota.POLICIES, policy_id, lambda view: policy_id in view.policies)
            if dry_run:
                if policy_id in view.policies:
                    raise PolicyExists(policy_id)
                return policy, remarks
            transaction = Transaction(
                namespace=namespace,
                steps=(
                    Put(Collection.POLICIES, policy_id, policy, ABSENT),
                    *change_steps(
                        _change(ChangeKind.CREATED, policy_id, None, policy, caller, reason)
                    ),
                ),
                audit=_audit(caller, "CreatePolicy", policy_id, "created", reason, request),
                request=request,
                answer=policy_id,
            )
            try:
                committed = await self._ledger.commit(transaction)
            except ConditionFailed:
                raise PolicyExists(policy_id) from None
        if committed.replayed:
            return (await self._stored(namespace, policy_id)).value, remarks
        return _stamped(policy, committed), remarks

    async def get(self, namespace: str, policy_id: str, *, min_revision: int) -> Policy:
        """Return one policy.

        Raises:
            PolicyNotFound: there is none.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        policy = view.policies.get(policy_id)
        if policy is None:
            raise PolicyNotFound(policy_id)
        return policy

    async def page(
        self, namespace: str, *, enabled_only: bool, min_revision: int, after: str, limit: int
    ) -> "PolicyPage":
        """Return policies after a cursor, highest priority first, then by id.

        The cursor is the place in that order, so a page is stable while policies come and go.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        chosen = [p for p in view.policies.values() if p.enabled or not enabled_only]
        chosen.sort(key=_order)
        start = bisect_right(chosen, _order_of(after), key=_order) if after else 0
        policies = chosen[start : start + limit]
        more = start + limit < len(chosen)
        return PolicyPage(
            policies=tuple(policies),
            total=len(chosen),
            position=view.position,
            next_cursor=_cursor_of(policies[-1]) if more else "",
        )

    async def update(
        self,
        namespace: str,
        policy: Policy,
        fields: Sequence[str],
        *,
        expected_revision: int,
        reason: str,
        request: RequestKey | None,
        dry_run: bool,
        caller: Caller,
    ) -> tuple[Policy, tuple[str, ...]]:
        """Change the named fields (attributes of `Policy`) of one policy.

        Raises:
            PolicyNotFound: there is none.
            RevisionConflict: it is not at `expected_revision`.
            InvalidArgument: the result would not be valid.
        """
        for _ in range(MAX_ATTEMPTS):
            record = await self._stored(namespace, policy.policy_id)
            current: Policy = record.value
            if request is not None and await self._ledger.find_request(namespace, request):
                return current, ()
            _check_revision(policy.policy_id, expected_revision, record)
            changed = replace(current, **{name: getattr(policy, name) for name in fields})
            if changed == current:
                return current, ()
            changed = replace(changed, updated_by=caller.name)
            require_valid(changed)
            remarks = warnings_about(self._read_model.view(namespace), changed)
            if dry_run:
                return changed, remarks
            try:
                committed = await self._ledger.commit(
                    Transaction(
                        namespace=namespace,
                        steps=(
                            Put(
                                Collection.POLICIES,
                                policy.policy_id,
                                changed,
                                Expect(revision=record.revision),
                            ),
                            *change_steps(
                                _change(
                                    ChangeKind.UPDATED,
                                    policy.policy_id,
                                    current,
                                    changed,
                                    caller,
                                    reason,
                                )
                            ),
                        ),
                        audit=_audit(
                            caller, "UpdatePolicy", policy.policy_id, "updated", reason, request
                        ),
                        request=request,
                        answer=policy.policy_id,
                    )
                )
            except ConditionFailed:
                continue
            return _stamped(changed, committed), remarks
        raise StoreUnavailable("too many callers change this policy at once")

    async def delete(
        self,
        namespace: str,
        policy_id: str,
        *,
        expected_revision: int,
        reason: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> int:
        """Remove a policy; return the revision of the deletion.

        Raises:
            PolicyNotFound: there is none.
            RevisionConflict: it is not at `expected_revision`.
        """
        for _ in range(MAX_ATTEMPTS):
            if request is not None:
                replay = await self._ledger.find_request(namespace, request)
                if replay is not None:
                    return replay.revision
            record = await self._stored(namespace, policy_id)
            _check_revision(policy_id, expected_revision, record)
            try:
                committed = await self._ledger.commit(
                    Transaction(
                        namespace=namespace,
                        steps=(
                            Delete(
                                Collection.POLICIES, policy_id, Expect(revision=record.revision)
                            ),
                            *change_steps(
                                _change(
                                    ChangeKind.DELETED,
                                    policy_id,
                                    record.value,
                                    None,
                                    caller,
                                    reason,
                                )
                            ),
                        ),
                        audit=_audit(caller, "DeletePolicy", policy_id, "deleted", reason, request),
                        request=request,
                        answer=policy_id,
                    )
                )
            except ConditionFailed:
                continue
            return committed.revision
        raise StoreUnavailable("too many callers change this policy at once")

    async def _stored(self, namespace: str, policy_id: str) -> Record:
        (record,) = await self._ledger.read(namespace, Collection.POLICIES, (policy_id,))
        if record is None:
            raise PolicyNotFound(policy_id)
        return record


def _order(policy: Policy) -> tuple[int, str]:
    return -policy.priority, policy.policy_id


def _cursor_of(policy: Policy) -> str:
    return f"{-policy.priority} {policy.policy_id}"


def _order_of(cursor: str) -> tuple[int, str]:
    priority, _, policy_id = cursor.partition(" ")
    return int(priority), policy_id


def require_valid(policy: Policy) -> None:
    """Refuse a policy that is not valid, naming fields as `policy.<path>`."""
    violations = validate_policy(policy)
    if violations:
        raise InvalidArgument(
            *(FieldViolation(f"policy.{v.field}", v.description) for v in violations)
        )


def warnings_about(view: NamespaceView, policy: Policy) -> tuple[str, ...]:
    """Return what the linter says about one policy among the others."""
    # Only policies of one priority can conflict; compiling all would hold up every other call.
    others = {k: v for k, v in view.policies.items() if v.priority == policy.priority}
    if len(others) > LINTED_POLICIES:
        others = {}
    together = {**others, policy.policy_id: policy}
    return tuple(
        warning.message
        for warning in lint(together.values(), on_missing=view.policy_set.on_missing)
        if policy.policy_id in warning.policy_ids
    )


def _check_revision(policy_id: str, expected: int, record: Record) -> None:
    if expected not in {0, record.revision}:
        raise RevisionConflict(f"policy {policy_id!r}", expected=expected, current=record.revision)


def _stamped(policy: Policy, committed: Committed) -> Policy:
    return replace(policy, revision=committed.revision, updated_at_ms=committed.at_ms)


def _change(
    kind: ChangeKind,
    policy_id: str,
    before: Policy | None,
    after: Policy | None,
    caller: Caller,
    reason: str,
) -> PolicyChange:
    return PolicyChange(
        kind=kind,
        before={policy_id: before},
        after={policy_id: after},
        actor=caller.name,
        reason=reason,
    )


def _audit(
    caller: Caller, method: str, policy_id: str, what: str, reason: str, request: RequestKey | None
) -> AuditEntry:
    return AuditEntry(
        actor=caller.name,
        method=method,
        object=f"policies/{policy_id}",
        event=f"policy.{what}",
        reason=reason,
        request_id=request.request_id if request is not None else "",
    )
