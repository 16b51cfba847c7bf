"""What a change does to an agent: values that differ, and requests that were only half met."""

from collections.abc import Iterable
from dataclasses import dataclass

from controlplane.domain.configs.document import Json
from controlplane.domain.configs.layers import ConfigLayer, LayerKind, in_precedence
from controlplane.domain.configs.merge import (
    EffectiveConfig,
    LayerSource,
    Step,
    restrict,
    source_of,
)
from controlplane.domain.configs.schema import BASE_SCHEMA, EXTRA, ConfigSchema, FieldRule
from controlplane.domain.configs.validation import extra_violations
from controlplane.domain.errors import FieldViolation

_SAID_ENTRIES = 10
"""Entries of a list spelled out in a note: as many as fit a line of a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDifference:
    """One leaf with another value than before. None stands for: absent."""

    path: str
    before: Json
    after: Json
    source: LayerSource | None
    """The layer the new value comes from; None when the leaf is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NarrowingNote:
    """A layer asks for more than it gets.

    Not an error: the value is stored, and holds as soon as the bound allows it.
    """

    path: str
    scope: str
    """Key of the layer that asks."""
    asked: Json
    granted: Json
    """What is in force for an agent with these layers."""
    bound_by: LayerSource
    """The strongest layer that stands in the way."""

    @property
    def message(self) -> str:
        """The note for people: `max_tokens: asked 9000 by name:a, bound 4096 by namespace`."""
        return (
            f"{self.path}: asked {_said(self.asked)} by {self.scope}, "
            f"bound {_said(self.granted)} by {self.bound_by.scope}"
        )


def diff(before: EffectiveConfig, after: EffectiveConfig) -> tuple[ConfigDifference, ...]:
    """Return the leaves whose values differ, sorted by path; a new source alone is none."""
    if before.digest == after.digest:
        return ()
    old, new = before.leaf_values(), after.leaf_values()
    return tuple(
        ConfigDifference(
            path=path,
            before=old.get(path),
            after=new.get(path),
            source=after.sources.get(path),
        )
        for path in sorted(old.keys() | new.keys())
        # Type too: 1 and True are equal to Python, not to an agent.
        if (type(old.get(path)), old.get(path)) != (type(new.get(path)), new.get(path))
    )


def narrowing_notes(
    layers: Iterable[ConfigLayer], schema: ConfigSchema = BASE_SCHEMA
) -> tuple[NarrowingNote, ...]:
    """Return every request of these layers that a bound of another one cuts short.

    A weaker layer's bound cuts a stronger one's request, the emergency layer cuts everybody's.
    A stronger layer that narrows a weaker one's value is how layers are meant to work: no note.
    """
    ordered = in_precedence(layers)
    notes: list[NarrowingNote] = []
    for path, rule in schema.fields.items():
        setters = [(layer, source_of(layer)) for layer in ordered if path in layer.values]
        if rule.restrictive and setters:
            notes.extend(_notes_on_bound(rule, restrict(rule, setters)))
    if ordered and ordered[-1].scope.kind is LayerKind.EMERGENCY:
        notes.extend(_notes_on_features(ordered[:-1], ordered[-1]))
    return tuple(notes)


def effective_violations(
    effective: EffectiveConfig, schema: ConfigSchema = BASE_SCHEMA
) -> list[FieldViolation]:
    """Return what the namespace's own check says about the merged `extra` of one agent.

    Layers are checked one by one when they are written; keys that must be present can only be
    missed here.
    """
    flat = {p: v for p, v in effective.leaf_values().items() if p.startswith(EXTRA + ".")}
    return extra_violations(flat, schema, sparse=False, prefix="")


def _notes_on_bound(rule: FieldRule, steps: list[Step]) -> Iterable[NarrowingNote]:
    for step in steps:
        if step.granted != step.asked and step.bound_by is not None:
            yield _note(rule, step, step.granted, step.bound_by)
    last = steps[-1]
    before = steps[-2] if len(steps) > 1 else None
    if (
        before is not None
        and last.layer.scope.kind is LayerKind.EMERGENCY
        and last.granted != before.granted
    ):
        yield _note(rule, before, last.granted, last.source)


def _note(rule: FieldRule, step: Step, granted: Json, bound_by: LayerSource) -> NarrowingNote:
    return NarrowingNote(
        path=rule.path,
        scope=step.layer.scope.key,
        asked=step.asked,
        granted=granted,
        bound_by=bound_by,
    )


def _notes_on_features(
    others: Iterable[ConfigLayer], emergency: ConfigLayer
) -> Iterable[NarrowingNote]:
    source = source_of(emergency)
    for layer in others:
        for path, value in layer.values.items():
            if value is True and emergency.values.get(path) is False:
                yield NarrowingNote(
                    path=path, scope=layer.scope.key, asked=True, granted=False, bound_by=source
                )


def _said(value: Json) -> str:
    if isinstance(value, list | tuple):
        more = [f"{len(value) - _SAID_ENTRIES:,} more"] if len(value) > _SAID_ENTRIES else []
        return f"[{', '.join([*map(str, value[:_SAID_ENTRIES]), *more])}]"
    return str(value)
