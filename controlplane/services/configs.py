"""Configuration: sparse layers in the ledger, merged in memory, with history and rollback."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from controlplane.domain.configs import (
    ConfigDifference,
    ConfigLayer,
    EffectiveConfig,
    Json,
    LayerKind,
    LayerScope,
    apply_change,
    diff,
    layer_key,
    merge,
    narrowing_notes,
    rollback_change,
)
from controlplane.domain.errors import (
    AgentNotFound,
    InvalidArgument,
    RevisionConflict,
    RevisionNotFound,
    StoreUnavailable,
)
from controlplane.domain.identity import Caller
from controlplane.services.extra_checks import (
    Chain,
    guard,
    refuse_wrong_merges,
    schema_for_change,
)
from controlplane.services.namespaces.quotas import NO_QUOTAS, QuotaKeeper
from controlplane.services.ports import (
    Append,
    AuditEntry,
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    RequestKey,
    Require,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

HISTORY_KEPT = 1000
"""Changes kept per layer: years of hand-made changes, a day of an automated one every 90 s."""

MAX_MERGED_REMEMBERED = 16_384
"""Merged configurations remembered by their layers' revisions: about 2 KiB each, 32 MiB in all."""

MAX_REPORTED_AGENTS = 1000
"""Agents listed by a dry run; the count is always exact."""

MAX_ATTEMPTS = 8
"""Rounds of read-merge-commit before contention is reported (see services/registry.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange:
    """What UpdateConfig asks for."""

    scope: LayerScope
    set_: Mapping[str, Json]
    unset: Sequence[str] = ()
    may_widen: Sequence[str] | None = None
    expected_revision: int | None = None
    reason: str = ""
    dry_run: bool = False
    request: RequestKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChanged:
    """What a change did, or would do."""

    layer: ConfigLayer
    changed: bool
    agents: tuple[tuple[str, tuple[ConfigDifference, ...]], ...] = ()
    affected_agents: int = 0
    notes: tuple[str, ...] = ()


class Configs:
    """Reads, changes and restores configuration."""

    def __init__(
        self, ledger: Ledger, read_model: ReadModel, clock: Clock, quotas: QuotaKeeper = NO_QUOTAS
    ) -> None:
        self._quotas = quotas
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._merged: dict[tuple[tuple[str, int], ...], EffectiveConfig] = {}
        self._defaults = merge(())

    def layers(self, view: NamespaceView, scope: LayerScope) -> list[ConfigLayer]:
        """Return the layers that make up the configuration of a scope, weakest first."""
        return [
            layer for key in layer_keys(view, scope) if (layer := view.layers.get(key)) is not None
        ]

    def effective(self, view: NamespaceView, scope: LayerScope) -> EffectiveConfig:
        """Return the merged configuration of a scope; the same object for the same layers."""
        layers = self.layers(view, scope)
        if not layers:
            return self._defaults
        key = ((view.position.epoch + view.name, 0), *layer_key(layers))
        merged = self._merged.get(key)
        if merged is None:
            if len(self._merged) >= MAX_MERGED_REMEMBERED:
                self._merged.clear()
            merged = self._merged[key] = merge(layers)
        return merged

    def chains(self, view: NamespaceView, scope: LayerScope) -> Iterator[Chain]:
        """Yield every registered agent that a layer of this scope applies to, with its layers."""
        for agent_id in sorted(agents_in_scope(view, scope)):
            yield agent_id, self.layers(view, LayerScope(LayerKind.AGENT_ID, agent_id))

    async def view(self, namespace: str, min_revision: int) -> NamespaceView:
        """Return the namespace, once it has reached `min_revision`."""
        return await self._read_model.at_least(namespace, min_revision)

    async def update(
        self, namespace: str, change: ConfigChange, *, caller: Caller
    ) -> ConfigChanged:
        """Set and unset paths of one layer.

        Raises:
            InvalidArgument: any path or value is wrong; nothing was written.
            RevisionConflict: the layer is not at the expected revision.
            AgentNotFound: an agent_id scope of nobody.
            QuotaExceeded: the configuration of the namespace would be too large.
        """
        await self._require_agent(namespace, change.scope)
        for _ in range(MAX_ATTEMPTS):
            current = await self._current(namespace, change.scope)
            replayed = await self._replayed(namespace, change.request, current)
            if replayed is not None:
                return ConfigChanged(layer=replayed, changed=False)
            _check_revision(change.scope, change.expected_revision, current)
            view = self._read_model.view(namespace)
            fresh = apply_change(
                current,
                change.scope,
                change.set_,
                change.unset,
                author=caller.name,
                reason=change.reason,
                at_ms=self._clock.store_ms(),
                schema=schema_for_change(view, current),
                may_widen=change.may_widen,
            )
            condition = guard(view, current, fresh)
            await self._quotas.check_config(view, current, fresh)
            chains = self.chains(view, change.scope)
            await refuse_wrong_merges(view.config_schema(), chains, current, fresh, prefix="set")
            if change.dry_run:
                return self._preview(namespace, current, fresh)
            if current is not None and _same_content(current, fresh):
                return ConfigChanged(layer=current, changed=False)
            committed = await self._commit(
                namespace, fresh, current, condition, "UpdateConfig", change.request, caller
            )
            if committed is not None:
                return ConfigChanged(
                    layer=_stamped(fresh, committed),
                    changed=True,
                    notes=self._notes(namespace, fresh),
                )
        raise StoreUnavailable("too many callers change this layer at once")

    async def rollback(
        self,
        namespace: str,
        scope: LayerScope,
        to_revision: int,
        *,
        expected_revision: int | None,
        reason: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> ConfigLayer:
        """Restore the values a layer had at an older revision, as a new revision.

        Raises:
            RevisionNotFound: its history does not hold that revision.
            InvalidArgument: the schema no longer accepts what it held; nothing was written.
            RevisionConflict: the layer is not at the expected revision.
        """
        for _ in range(MAX_ATTEMPTS):
            current = await self._current(namespace, scope)
            replayed = await self._replayed(namespace, request, current)
            if replayed is not None:
                return replayed
            _check_revision(scope, expected_revision, current)
            entries = await self._ledger.read_history(
                namespace, history_name(scope), before=to_revision + 1, limit=1
            )
            if not entries or entries[0].revision != to_revision:
                raise RevisionNotFound(scope.key, to_revision)
            view = self._read_model.view(namespace)
            fresh = rollback_change(
                entries[0].value,
                current,
                author=caller.name,
                reason=reason,
                at_ms=self._clock.store_ms(),
                schema=schema_for_change(view, current),
            )
            condition = guard(view, current, fresh)
            await self._quotas.check_config(view, current, fresh)
            await refuse_wrong_merges(
                view.config_schema(),
                self.chains(view, scope),
                current,
                fresh,
                prefix="to_revision",
            )
            committed = await self._commit(
                namespace, fresh, current, condition, "RollbackConfig", request, caller
            )
            if committed is not None:
                return _stamped(fresh, committed)
        raise StoreUnavailable("too many callers change this layer at once")

    async def history(
        self, namespace: str, scope: LayerScope, *, before: int | None, limit: int
    ) -> list[ConfigLayer]:
        """Return the layer as it was after each change, newest first."""
        records = await self._ledger.read_history(
            namespace, history_name(scope), before=before, limit=limit
        )
        return [record.value for record in records]

    async def _current(self, namespace: str, scope: LayerScope) -> ConfigLayer | None:
        (record,) = await self._ledger.read(namespace, Collection.CONFIG_LAYERS, (scope.key,))
        return record.value if record is not None else None

    async def _replayed(
        self, namespace: str, request: RequestKey | None, current: ConfigLayer | None
    ) -> ConfigLayer | None:
        if request is None or current is None:
            return None
        replay = await self._ledger.find_request(namespace, request)
        return None if replay is None else current

    async def _commit(
        self,
        namespace: str,
        fresh: ConfigLayer,
        current: ConfigLayer | None,
        condition: tuple[Require, ...],
        method: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> Committed | None:
        """Write a layer and its history; None if the layer or its schema changed meanwhile."""
        before = current.revision if current is not None else 0
        transaction = Transaction(
            namespace=namespace,
            steps=(
                Put(Collection.CONFIG_LAYERS, fresh.scope.key, fresh, Expect(revision=before)),
                Append(history_name(fresh.scope), fresh, keep=HISTORY_KEPT),
                *condition,
            ),
            audit=AuditEntry(
                actor=caller.name,
                method=method,
                object=f"config/{fresh.scope.key}",
                event="config.updated",
                reason=fresh.reason,
                request_id=request.request_id if request is not None else "",
                details={"before_revision": str(before), "paths": changed_paths(current, fresh)},
            ),
            request=request,
            answer=fresh.scope.key,
        )
        try:
            return await self._ledger.commit(transaction)
        except ConditionFailed as failed:
            if transaction.steps[failed.step] in condition:
                await self._read_model.at_least(namespace, failed.current_revision)
            return None

    async def _require_agent(self, namespace: str, scope: LayerScope) -> None:
        if scope.kind is not LayerKind.AGENT_ID:
            return
        if scope.target in self._read_model.view(namespace).agents:
            return
        (record,) = await self._ledger.read(namespace, Collection.AGENTS, (scope.target,))
        if record is None:
            raise AgentNotFound(scope.target)

    def _preview(
        self, namespace: str, current: ConfigLayer | None, fresh: ConfigLayer
    ) -> ConfigChanged:
        """Say what a change would do to every registered agent it applies to."""
        view = self._read_model.view(namespace)
        touched: list[tuple[str, tuple[ConfigDifference, ...]]] = []
        affected = 0
        # Agents with the same other layers share one comparison.
        compared: dict[tuple[tuple[str, int], ...], tuple[ConfigDifference, ...]] = {}
        for agent_id in sorted(agents_in_scope(view, fresh.scope)):
            others = [
                layer
                for layer in self.layers(view, LayerScope(LayerKind.AGENT_ID, agent_id))
                if layer.scope != fresh.scope
            ]
            key = layer_key(others)
            differences = compared.get(key)
            if differences is None:
                before = merge([*others, current] if current is not None else others)
                differences = compared[key] = diff(before, merge([*others, fresh]))
            if differences:
                affected += 1
                if len(touched) < MAX_REPORTED_AGENTS:
                    touched.append((agent_id, differences))
        return ConfigChanged(
            layer=fresh,
            changed=current is None or not _same_content(current, fresh),
            agents=tuple(touched),
            affected_agents=affected,
            notes=self._notes(namespace, fresh),
        )

    def _notes(self, namespace: str, fresh: ConfigLayer) -> tuple[str, ...]:
        view = self._read_model.view(namespace)
        scope = fresh.scope
        # Nobody runs the emergency layer alone; what every agent has besides is the namespace's.
        is_emergency = scope.kind is LayerKind.EMERGENCY
        chain = self.layers(view, LayerScope(LayerKind.NAMESPACE) if is_emergency else scope)
        others = [layer for layer in chain if layer.scope != scope]
        return tuple(
            note.message for note in narrowing_notes([*others, fresh]) if note.scope == scope.key
        )


def history_name(scope: LayerScope) -> str:
    """Return the name of the history of a layer in the ledger."""
    return f"config/{scope.key}"


def layer_keys(view: NamespaceView, scope: LayerScope) -> tuple[str, ...]:
    """Return the keys of the layers that apply to a scope, weakest first."""
    match scope.kind:
        case LayerKind.AGENT_ID:
            entry = view.agents.get(scope.target)
            if entry is None:
                return ("namespace", scope.key, "emergency")
            return ("namespace", f"name:{entry.agent.spec.name}", scope.key, "emergency")
        case LayerKind.AGENT_NAME:
            return ("namespace", scope.key, "emergency")
        case LayerKind.NAMESPACE:
            return ("namespace", "emergency")
        case _:
            raise InvalidArgument.of("scope", f"{scope.key} has no effective configuration")


def agents_in_scope(view: NamespaceView, scope: LayerScope) -> Iterable[str]:
    """Return the ids of the registered agents that a layer applies to."""
    match scope.kind:
        case LayerKind.AGENT_ID:
            return (scope.target,) if scope.target in view.agents else ()
        case LayerKind.AGENT_NAME:
            return view.ids_of_name.get(scope.target, set())
        case _:
            return view.agents


def changed_paths(before: ConfigLayer | None, after: ConfigLayer) -> str:
    """Return the paths that a change touched, for the audit: names, never values."""
    old = before.values if before is not None else {}
    paths = {
        path
        for path in old.keys() | after.values.keys()
        if path not in old or path not in after.values or old[path] != after.values[path]
    }
    return ",".join(sorted(paths))


def _same_content(one: ConfigLayer, other: ConfigLayer) -> bool:
    return one.values == other.values and one.may_widen == other.may_widen


def _stamped(layer: ConfigLayer, committed: Committed) -> ConfigLayer:
    return replace(layer, revision=committed.revision, updated_at_ms=committed.at_ms)


def _check_revision(scope: LayerScope, expected: int | None, current: ConfigLayer | None) -> None:
    held = current.revision if current is not None else 0
    if expected is not None and expected != held:
        raise RevisionConflict(f"config layer {scope.key}", expected=expected, current=held)
