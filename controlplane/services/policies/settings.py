"""The settings of a namespace's policies: read from memory, changed in the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from controlplane.domain.errors import RevisionConflict, StoreUnavailable
from controlplane.domain.identity import Caller
from controlplane.domain.policy_sets.history import ChangeKind, PolicyChange, StoredDefaults
from controlplane.domain.policy_settings import (
    SETTINGS_KEY,
    PolicySettings,
    require_valid_settings,
)
from controlplane.services.policies.head import change_steps
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    RequestKey,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

MAX_ATTEMPTS = 8
"""Rounds of read-change-commit before contention is reported (see services/registry.py)."""

_UNSET = PolicySettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsChange:
    """What UpdatePolicySettings asks for."""

    settings: PolicySettings
    """New values of `fields`."""
    fields: Sequence[str]
    """Attributes of `PolicySettings` to change, or of what they hold: `approval.ceilings`."""
    expected_revision: int | None = None
    """None does not check; 0: nothing was ever set."""
    reason: str = ""
    dry_run: bool = False
    request: RequestKey | None = None


def settings_of(view: NamespaceView) -> PolicySettings:
    """Return what a namespace set, defaults where it set nothing; cheap, asked per decision."""
    found: PolicySettings | None = view.governance.table(Collection.POLICY_SETTINGS).get(
        SETTINGS_KEY
    )
    return _UNSET if found is None else found


class PolicySettingsKeeper:
    """Reads and changes the settings of namespaces."""

    def __init__(self, ledger: Ledger, read_model: ReadModel) -> None:
        self._ledger = ledger
        self._read_model = read_model

    async def get(self, namespace: str, *, min_revision: int) -> PolicySettings:
        """Return the settings with what the daemon fills in where the namespace says nothing."""
        view = await self._read_model.at_least(namespace, min_revision)
        return self._shown(settings_of(view))

    async def update(
        self, namespace: str, change: SettingsChange, *, caller: Caller
    ) -> PolicySettings:
        """Change the named fields.

        Raises:
            InvalidArgument: naming `settings.<path>`; nothing was written.
            RevisionConflict: they are not at the expected revision.
        """
        for _ in range(MAX_ATTEMPTS):
            (record,) = await self._ledger.read(
                namespace, Collection.POLICY_SETTINGS, (SETTINGS_KEY,)
            )
            current: PolicySettings = _UNSET if record is None else record.value
            if change.request is not None and await self._ledger.find_request(
                namespace, change.request
            ):
                return self._shown(current)
            _check_revision(change.expected_revision, current)
            fresh = _merged(current, change)
            require_valid_settings(fresh)
            if fresh == current:
                return self._shown(current)
            fresh = replace(fresh, updated_by=caller.name, reason=change.reason)
            if change.dry_run:
                return self._shown(fresh)
            try:
                committed = await self._ledger.commit(
                    _transaction(namespace, fresh, current, change, caller)
                )
            except ConditionFailed:
                continue
            stamped = replace(fresh, revision=committed.revision, updated_at_ms=committed.at_ms)
            return self._shown(stamped)
        raise StoreUnavailable("too many callers change these settings at once")

    def _shown(self, settings: PolicySettings) -> PolicySettings:
        defaults = self._read_model.policy_defaults.under(settings)
        return replace(settings, default_effect=defaults.effect, on_missing=defaults.on_missing)


def _merged(current: PolicySettings, change: SettingsChange) -> PolicySettings:
    fresh, wanted = current, change.settings
    for path in change.fields:
        name, _, inner = path.partition(".")
        value = getattr(wanted, name)
        if inner:
            value = replace(getattr(fresh, name), **{inner: getattr(value, inner)})
        fresh = replace(fresh, **{name: value})
    return fresh


def _transaction(
    namespace: str,
    fresh: PolicySettings,
    current: PolicySettings,
    change: SettingsChange,
    caller: Caller,
) -> Transaction:
    request = change.request
    return Transaction(
        namespace=namespace,
        steps=(
            Put(
                Collection.POLICY_SETTINGS,
                SETTINGS_KEY,
                fresh,
                Expect(revision=current.revision),
            ),
            *_revision(fresh, current, caller),
        ),
        audit=AuditEntry(
            actor=caller.name,
            method="UpdatePolicySettings",
            object="policies/settings",
            event="policy.settings_updated",
            reason=change.reason,
            request_id=request.request_id if request is not None else "",
            details={"fields": ",".join(sorted(set(change.fields)))},
        ),
        request=request,
        answer=SETTINGS_KEY,
    )


def _revision(fresh: PolicySettings, current: PolicySettings, caller: Caller) -> tuple[Step, ...]:
    """Return what makes other defaults a revision of the policies: they decide as well."""
    before, after = stored_defaults(current), stored_defaults(fresh)
    if before == after:
        return ()
    return change_steps(
        PolicyChange(
            kind=ChangeKind.SETTINGS,
            actor=caller.name,
            reason=fresh.reason,
            defaults_before=before,
            defaults_after=after,
        )
    )


def stored_defaults(settings: PolicySettings) -> StoredDefaults:
    """Return what settings say about the policies."""
    return StoredDefaults(effect=settings.default_effect, on_missing=settings.on_missing)


def _check_revision(expected: int | None, current: PolicySettings) -> None:
    if expected is not None and expected != current.revision:
        raise RevisionConflict("the policy settings", expected=expected, current=current.revision)
