"""The JSON Schema that a namespace registers for its `extra` keys."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from controlplane.domain.configs import (
    BASE_SCHEMA,
    ConfigLayer,
    ConfigSchema,
    Json,
    LayerKind,
    LayerScope,
    effective_violations,
    merge,
)
from controlplane.domain.configs.extra_schema import EXTRA_SCHEMA_KEY, ExtraSchema
from controlplane.domain.configs.extra_validator import CompiledExtraSchema
from controlplane.domain.configs.schema_document import check_document
from controlplane.domain.configs.validation import extra_violations, refuse
from controlplane.domain.errors import FieldViolation, RevisionConflict, StoreUnavailable
from controlplane.domain.identity import Caller
from controlplane.services.configs import MAX_ATTEMPTS, Configs
from controlplane.services.extra_checks import violating_agents
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import NamespaceView

MAX_VIOLATIONS = 100
"""Entries of one answer: enough to see what kind of thing is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraSchemaChange:
    """What SetExtraSchema asks for."""

    document: Mapping[str, Json]
    """Empty: remove the schema."""
    expected_revision: int | None = None
    reason: str = ""
    dry_run: bool = False
    force: bool = False
    request: RequestKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredViolation:
    """Something stored that does not fit a schema: set by `layer`, or merged for `agent_id`."""

    layer: LayerScope | None = None
    agent_id: str = ""
    path: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraSchemaChanged:
    """What a change of the schema did, or would do."""

    schema: ExtraSchema
    changed: bool
    violations: tuple[StoredViolation, ...] = ()
    """At most 100, layers first."""
    more_violations: bool = False


class ExtraSchemas:
    """Registers and replaces schemas of `extra`."""

    def __init__(self, ledger: Ledger, configs: Configs) -> None:
        self._ledger = ledger
        self._configs = configs

    async def set(
        self, namespace: str, change: ExtraSchemaChange, *, caller: Caller
    ) -> ExtraSchemaChanged:
        """Register, replace or remove the schema of a namespace.

        Raises:
            InvalidArgument: the document is no schema that can be used here, or what is stored
                violates it and `force` is not set; nothing was written.
            LimitExceeded: the document is too large.
            RevisionConflict: the schema is not at the expected revision.
        """
        # Up to half a second of CPU: in a thread, the loop gets its share.
        await asyncio.to_thread(check_document, change.document)
        fresh = ExtraSchema(document=change.document, author=caller.name, reason=change.reason)
        for _ in range(MAX_ATTEMPTS):
            current = await self._current(namespace)
            if await self._replayed(namespace, change.request) and current is not None:
                return ExtraSchemaChanged(schema=current, changed=False)
            _check_revision(change.expected_revision, current)
            changed = change.document != (current.document if current is not None else {})
            violations = await self._violations(namespace, fresh)
            if change.dry_run:
                return _outcome(fresh, violations, changed=changed)
            if not changed:
                return _outcome(current or fresh, violations, changed=False)
            if not change.force:
                refuse([_refusal(one) for one in violations])
            committed = await self._commit(namespace, fresh, current, change, caller)
            if committed is not None:
                stored = replace(fresh, revision=committed.revision, updated_at_ms=committed.at_ms)
                # A layer that was written meanwhile was still checked against the old schema.
                return _outcome(stored, await self._violations(namespace, fresh), changed=True)
        raise StoreUnavailable("too many callers change this schema at once")

    async def _current(self, namespace: str) -> ExtraSchema | None:
        (record,) = await self._ledger.read(
            namespace, Collection.CONFIG_SCHEMAS, (EXTRA_SCHEMA_KEY,)
        )
        return record.value if record is not None else None

    async def _replayed(self, namespace: str, request: RequestKey | None) -> bool:
        if request is None:
            return False
        return await self._ledger.find_request(namespace, request) is not None

    async def _commit(
        self,
        namespace: str,
        fresh: ExtraSchema,
        current: ExtraSchema | None,
        change: ExtraSchemaChange,
        caller: Caller,
    ) -> Committed | None:
        """Write the schema; None if somebody else changed it meanwhile."""
        before = current.revision if current is not None else 0
        transaction = Transaction(
            namespace=namespace,
            steps=(
                Put(Collection.CONFIG_SCHEMAS, EXTRA_SCHEMA_KEY, fresh, Expect(revision=before)),
            ),
            audit=AuditEntry(
                actor=caller.name,
                method="SetExtraSchema",
                object=f"schema/{EXTRA_SCHEMA_KEY}",
                event="config.schema_updated",
                reason=change.reason,
                request_id=change.request.request_id if change.request is not None else "",
                details={
                    "before_revision": str(before),
                    "removed": str(not fresh.document).lower(),
                    "force": str(change.force).lower(),
                },
            ),
            request=change.request,
            answer=EXTRA_SCHEMA_KEY,
        )
        try:
            return await self._ledger.commit(transaction)
        except ConditionFailed:
            return None

    async def _violations(self, namespace: str, fresh: ExtraSchema) -> list[StoredViolation]:
        """Return what is stored and does not fit, one more than is reported where there is more."""
        if not fresh.document:
            return []
        view = await self._configs.view(namespace, 0)
        schema = BASE_SCHEMA.with_extra(CompiledExtraSchema(fresh.document))
        found = await _wrong_layers(view, schema)
        said = {(one.path, one.description) for one in found}

        def judge(layers: Sequence[ConfigLayer]) -> tuple[FieldViolation, ...]:
            wrong = effective_violations(merge(layers), schema)
            return tuple(one for one in wrong if (one.field, one.description) not in said)

        chains = self._configs.chains(view, LayerScope(LayerKind.NAMESPACE))
        if len(found) <= MAX_VIOLATIONS:
            found += [
                StoredViolation(agent_id=agent_id, path=one.field, description=one.description)
                for agent_id, wrong in await violating_agents(chains, judge)
                for one in wrong
            ]
        return found[: MAX_VIOLATIONS + 1]


async def _wrong_layers(view: NamespaceView, schema: ConfigSchema) -> list[StoredViolation]:
    found: list[StoredViolation] = []
    for _, layer in sorted(view.layers.items()):
        wrong = extra_violations(layer.values, schema, sparse=True, prefix="")
        found += [
            StoredViolation(layer=layer.scope, path=one.field, description=one.description)
            for one in wrong
        ]
        if len(found) > MAX_VIOLATIONS:
            break
        # A check may take a tenth of a second: others run in between.
        await asyncio.sleep(0)
    return found


def _refusal(one: StoredViolation) -> FieldViolation:
    where = f"layer {one.layer.key}" if one.layer is not None else f"agent {one.agent_id}, merged"
    return FieldViolation("schema", f"{where}: {one.path} {one.description}")


def _outcome(
    schema: ExtraSchema, violations: Sequence[StoredViolation], *, changed: bool
) -> ExtraSchemaChanged:
    return ExtraSchemaChanged(
        schema=schema,
        changed=changed,
        violations=tuple(violations[:MAX_VIOLATIONS]),
        more_violations=len(violations) > MAX_VIOLATIONS,
    )


def _check_revision(expected: int | None, current: ExtraSchema | None) -> None:
    held = current.revision if current is not None else 0
    if expected is not None and expected != held:
        raise RevisionConflict("the schema of extra", expected=expected, current=held)
