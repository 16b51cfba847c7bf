"""Turns a request to change a layer into the new layer, or into everything wrong with it."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from controlplane.domain.configs.document import Json
from controlplane.domain.configs.layers import ConfigLayer, LayerKind, LayerScope
from controlplane.domain.configs.paths import path_problem, shown
from controlplane.domain.configs.schema import BASE_SCHEMA, ConfigSchema
from controlplane.domain.configs.validation import (
    MAX_VIOLATIONS,
    check_values,
    extra_violations,
    refuse,
    refuse_large,
)
from controlplane.domain.errors import FieldViolation, InvalidArgument

_WITH_LAYERS_BELOW = frozenset({LayerKind.NAMESPACE, LayerKind.AGENT_NAME})
"""Kinds whose bounds another layer could override at all."""


def apply_change(
    layer: ConfigLayer | None,
    scope: LayerScope,
    set_: Mapping[str, Json],
    unset: Iterable[str] = (),
    *,
    author: str,
    reason: str,
    at_ms: int,
    schema: ConfigSchema = BASE_SCHEMA,
    may_widen: Iterable[str] | None = None,
) -> ConfigLayer:
    """Return the layer after the change; `layer` is the present one, None if there is none.

    Unsets come first, then sets. Both work on subtrees: unsetting `extra.team` removes everything
    below it, setting it replaces everything below it, in this layer only. Unsetting what is not set
    changes nothing. `may_widen` replaces the paths on which more specific layers may exceed this
    one; None keeps them.

    The new layer has `revision` 0 until the store commits it. A change without effect returns
    `layer` itself, so `result is layer` means that there is nothing to write.

    Raises InvalidArgument with every violation: `set.<path>`, `unset.<path>`, `may_widen.<path>`,
    `scope`, `author`, `reason`; LimitExceeded for a layer that would be too large.
    """
    unset = tuple(unset)
    held: Mapping[str, Json] = layer.values if layer is not None else {}
    wide = None if may_widen is None else frozenset(may_widen)
    _refuse_size(set_, unset, wide, schema)
    stored, wrong = check_values(set_, schema=schema, held=held, kind=scope.kind)
    wrong += _wrong_origin(layer, scope, author, reason, schema)
    wrong += _wrong_unsets(set_, unset, held, schema)
    wrong += _wrong_widening(wide, scope, schema)
    values = _without(held, {*unset, *set_}, stored) | stored
    if not wrong:
        refuse_large(values, schema)
        wrong = extra_violations(values, schema, sparse=True)
    refuse(wrong)
    widened = wide if wide is not None else layer.may_widen if layer is not None else frozenset()
    if layer is not None and layer.values == values and layer.may_widen == widened:
        return layer
    return ConfigLayer(
        scope=scope,
        values=values,
        author=author,
        reason=reason,
        updated_at_ms=at_ms,
        may_widen=widened,
    )


def rollback_change(
    history_entry: ConfigLayer,
    current: ConfigLayer | None,
    *,
    author: str,
    reason: str,
    at_ms: int,
    schema: ConfigSchema = BASE_SCHEMA,
) -> ConfigLayer:
    """Return a new layer that holds the values of `history_entry` again, `restored_from` it.

    Only what that revision had set comes back: paths it left to other layers stay with them. The
    values are checked against today's schema; what it no longer accepts is a violation of
    `to_revision.<path>`. Raises InvalidArgument; `scope` when the two layers are of different ones;
    LimitExceeded when today's limit is lower than what it held.
    """
    scope = history_entry.scope
    values, wrong = check_values(
        history_entry.values, schema=schema, kind=scope.kind, prefix="to_revision"
    )
    wrong += _wrong_origin(current, scope, author, reason, schema)
    if not wrong:
        refuse_large(values, schema)
        wrong = extra_violations(values, schema, sparse=True, prefix="to_revision")
    refuse(wrong)
    return replace(
        history_entry,
        values=values,
        revision=0,
        author=author,
        reason=reason,
        updated_at_ms=at_ms,
        restored_from=history_entry.revision,
    )


def _refuse_size(
    set_: Mapping[str, Json],
    unset: tuple[str, ...],
    wide: frozenset[str] | None,
    schema: ConfigSchema,
) -> None:
    """Refuse a change that is too large to be looked at, or that asks for nothing."""
    limit = schema.limits.change_paths
    if len(set_) + len(unset) + len(wide or ()) > limit:
        raise InvalidArgument.of("set", f"a change may name at most {limit:,} paths")
    if not set_ and not unset and wide is None:
        raise InvalidArgument.of("set", "nothing to change: give a path to set or to unset")


def _wrong_origin(
    layer: ConfigLayer | None, scope: LayerScope, author: str, reason: str, schema: ConfigSchema
) -> list[FieldViolation]:
    wrong = []
    if scope.kind is LayerKind.SCHEMA_DEFAULT:
        wrong.append(FieldViolation("scope", "schema defaults ship with the release"))
    if layer is not None and layer.scope != scope:
        wrong.append(FieldViolation("scope", f"the layer is of {layer.scope.key}, not {scope.key}"))
    if not author:
        wrong.append(FieldViolation("author", "must not be empty"))
    if len(reason.encode(errors="replace")) > schema.limits.reason_bytes:
        wrong.append(FieldViolation("reason", f"is over {schema.limits.reason_bytes} bytes"))
    return wrong


def _wrong_unsets(
    set_: Mapping[str, Json],
    unset: Collection[str],
    held: Mapping[str, Json],
    schema: ConfigSchema,
) -> list[FieldViolation]:
    wrong: list[FieldViolation] = []
    for path in dict.fromkeys(unset):
        # What is stored can always be removed, even when the schema no longer knows the path.
        near = held if len(wrong) < MAX_VIOLATIONS else {}
        problem = None if path in held else path_problem(path, schema, near)
        if path in set_:
            problem = "is set and unset in one change"
        if problem is not None:
            wrong.append(FieldViolation(f"unset.{shown(path)}", problem))
    return wrong


def _wrong_widening(
    wide: frozenset[str] | None, scope: LayerScope, schema: ConfigSchema
) -> list[FieldViolation]:
    if not wide:
        return []
    if scope.kind not in _WITH_LAYERS_BELOW:
        return [FieldViolation("may_widen", f"no layer below {scope.key} could override a bound")]
    bounds = [path for path, rule in schema.fields.items() if rule.restrictive]
    return [
        FieldViolation(f"may_widen.{shown(path)}", f"is no bound; there are {', '.join(bounds)}")
        for path in sorted(wide.difference(bounds))
    ]


def _without(
    held: Mapping[str, Json], gone: set[str], stored: Mapping[str, Json]
) -> dict[str, Json]:
    """Return the held values that outlive the change.

    A value goes when it or a parent of it is named by the change, or when the change stores
    something below it (a value and an object cannot share a path).
    """
    through = {parent for path in stored for parent in _parents(path)}
    return {
        path: value
        for path, value in held.items()
        if path not in through and gone.isdisjoint((path, *_parents(path)))
    }


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition(".")[0]:
        yield path
