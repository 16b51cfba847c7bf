"""Computes what an agent runs from the layers that apply to it, and says where each leaf came from.

Two ways of combining. Preferences (`model`, `temperature`, each feature, each leaf of `extra`)
follow the strongest layer. Bounds (limits, `blocked_tools`, `allowed_domains`) only get tighter on
the way to the stronger layers, unless the layer that set the bound lets others override it
(`ConfigLayer.may_widen`). The emergency layer restricts whatever the others agreed on. Schema
defaults are defaults, not bounds: a namespace may ask for more than the default.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from controlplane.domain.configs import domains
from controlplane.domain.configs.document import Json, digest, lay, leaves
from controlplane.domain.configs.layers import ConfigLayer, LayerKind, LayerScope, in_precedence
from controlplane.domain.configs.schema import (
    BASE_SCHEMA,
    EXTRA,
    FEATURES,
    Combine,
    ConfigSchema,
    FieldRule,
)


@dataclass(frozen=True, slots=True)
class LayerSource:
    """The layer a value came from."""

    kind: LayerKind
    scope: str
    """Key of its scope."""
    revision: int
    """Revision of that layer; 0 for schema defaults."""


SCHEMA_SOURCE = LayerSource(LayerKind.SCHEMA_DEFAULT, LayerScope(LayerKind.SCHEMA_DEFAULT).key, 0)
"""Where values come from that no layer sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveConfig:
    """What one agent runs. Shared between readers: its mappings and lists must not be changed."""

    model: str
    temperature: float
    max_tokens: int
    max_retries: int
    timeout_seconds: float
    rate_limit_rpm: int
    """Model calls per minute; 0: no call at all."""
    features: Mapping[str, bool] = field(default_factory=dict)
    blocked_tools: tuple[str, ...] = ()
    """Sorted."""
    allowed_domains: tuple[str, ...] | None = None
    """Sorted; None: nobody restricts them, empty: nothing is allowed. `domains.covers` asks."""
    extra: Mapping[str, Json] = field(default_factory=dict)
    """Nested document of the namespace's own keys."""
    sources: Mapping[str, LayerSource] = field(default_factory=dict)
    """The layer of every leaf, by dotted path. For a limit: the layer whose value binds; for a
    list: the strongest layer that sets it (`element_sources` has the entries)."""
    element_sources: Mapping[str, Mapping[str, tuple[LayerSource, ...]]] = field(
        default_factory=dict
    )
    """For each list setting, the layers that name each entry, weakest first."""
    revision: int = 0
    """Largest revision of the layers merged; 0 when there are none."""
    digest: str = ""
    """Fingerprint of the values alone: equal digests, equal behaviour."""

    def leaf_values(self) -> dict[str, Json]:
        """Return every leaf by dotted path; what nobody set and has no default is absent."""
        flat: dict[str, Json] = {
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "max_retries": self.max_retries,
            "timeout_seconds": self.timeout_seconds,
            "rate_limit_rpm": self.rate_limit_rpm,
            "blocked_tools": list(self.blocked_tools),
        }
        if self.allowed_domains is not None:
            flat["allowed_domains"] = list(self.allowed_domains)
        for name, enabled in self.features.items():
            flat[f"{FEATURES}.{name}"] = enabled
        flat.update(_extra_leaves(self.extra))
        return flat


def _extra_leaves(extra: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    for key, value in extra.items():
        yield from leaves(value, f"{EXTRA}.{key}")


def _union(value: Sequence[str], bound: Sequence[str]) -> list[str]:
    return sorted({*value, *bound})


Setter: TypeAlias = tuple[ConfigLayer, LayerSource]
"""A layer that sets the path in question, with its name in explanations (made once per merge)."""

_RESTRICT: Mapping[Combine, Callable[[Any, Any], Any]] = {
    Combine.MINIMUM: min,
    Combine.UNION: _union,
    Combine.INTERSECTION: domains.intersection,
}
"""The tighter of (what a layer asks, the bound on it). Commutative, associative, idempotent."""

_SETS = frozenset({Combine.UNION, Combine.INTERSECTION})
"""Ways of combining lists, whose entries are explained one by one."""


@dataclass(frozen=True, slots=True)
class Step:
    """One layer's say on one bound."""

    layer: ConfigLayer
    layer_source: LayerSource
    asked: Any
    granted: Any
    """What is in force after this layer."""
    bound: Any
    """What the layer could not exceed; None: nothing."""
    bound_by: LayerSource | None
    """The layer that set `bound`, the strongest one where several did; None without a bound."""

    @property
    def source(self) -> LayerSource:
        """The layer whose value is in force: this one, or the one that bounds it."""
        if self.bound_by is None or self.granted == self.asked:
            return self.layer_source
        return self.bound_by


def restrict(rule: FieldRule, setters: Iterable[Setter]) -> list[Step]:
    """Return how the layers that set `rule.path`, weakest first, arrive at its value.

    A layer gets what it asks for, restricted by every weaker layer that does not let others widen
    its bound. The emergency layer is restricted by what is in force without it, defaults included.
    """
    tighter = _RESTRICT[rule.combine]
    steps: list[Step] = []
    bound: Any = None
    bound_by: LayerSource | None = None
    for layer, source in setters:
        asked = layer.values[rule.path]
        if layer.scope.kind is LayerKind.EMERGENCY:
            bound = steps[-1].granted if steps else rule.default
            bound_by = steps[-1].source if steps else SCHEMA_SOURCE
        granted = asked if bound is None else tighter(asked, bound)
        steps.append(Step(layer, source, asked, granted, bound, bound_by))
        if rule.path not in layer.may_widen:
            if bound is None or granted != bound:
                bound_by = source
            bound = granted
    return steps


def source_of(layer: ConfigLayer) -> LayerSource:
    """Return how `layer` is named in explanations."""
    return LayerSource(layer.scope.kind, layer.scope.key, layer.revision)


def merge(layers: Iterable[ConfigLayer], schema: ConfigSchema = BASE_SCHEMA) -> EffectiveConfig:
    """Return the effective configuration of the agent these layers apply to.

    `layers` come in any order, at most one of each kind, and hold validated values. Paths that this
    release does not know are left out, so that an older replica reads what a newer one wrote.
    Raises ValueError for a chain of layers that no agent can have.
    """
    ordered = in_precedence(layers)
    asking: dict[str, list[Setter]] = {}
    features: dict[str, bool] = {}
    extra: dict[str, Any] = {}
    extra_sources: dict[str, LayerSource] = {}
    sources: dict[str, LayerSource] = dict.fromkeys(schema.fields, SCHEMA_SOURCE)
    for layer in ordered:
        source = source_of(layer)
        for path, value in layer.values.items():
            if path in schema.fields:
                asking.setdefault(path, []).append((layer, source))
            elif path.startswith(EXTRA + "."):
                lay(extra, path.removeprefix(EXTRA + "."), value)
                extra_sources[path] = source
            elif path.startswith(FEATURES + "."):
                _lay_feature(features, sources, path, value, source)
    values: dict[str, Any] = {path: rule.default for path, rule in schema.fields.items()}
    elements: dict[str, Mapping[str, tuple[LayerSource, ...]]] = {}
    for path, setters in asking.items():
        values[path], sources[path] = _settle(schema.fields[path], setters)
        if schema.fields[path].combine in _SETS:
            elements[path] = _element_sources(path, values[path], setters)
    if values["allowed_domains"] is None:
        del sources["allowed_domains"]
    # The last layer to set a path that is still a leaf is the one whose value survived.
    sources |= {path: extra_sources[path] for path, _ in _extra_leaves(extra)}
    values[FEATURES], values[EXTRA] = features, extra
    return _typed(values, sources, elements, max((x.revision for x in ordered), default=0))


def _typed(
    values: Mapping[str, Any],
    sources: Mapping[str, LayerSource],
    elements: Mapping[str, Mapping[str, tuple[LayerSource, ...]]],
    revision: int,
) -> EffectiveConfig:
    allowed = values["allowed_domains"]
    return EffectiveConfig(
        model=values["model"],
        temperature=values["temperature"],
        max_tokens=values["max_tokens"],
        max_retries=values["max_retries"],
        timeout_seconds=values["timeout_seconds"],
        rate_limit_rpm=values["rate_limit_rpm"],
        features=values[FEATURES],
        blocked_tools=tuple(values["blocked_tools"]),
        allowed_domains=None if allowed is None else tuple(allowed),
        extra=values[EXTRA],
        sources=sources,
        element_sources=elements,
        revision=revision,
        digest=digest(values),
    )


def _settle(rule: FieldRule, setters: Sequence[Setter]) -> tuple[Any, LayerSource]:
    """Return the value of one typed setting and the layer it came from."""
    strongest, source = setters[-1]
    alone = len(setters) == 1 and strongest.scope.kind is not LayerKind.EMERGENCY
    if alone or not rule.restrictive:
        return strongest.values[rule.path], source
    last = restrict(rule, setters)[-1]
    if rule.combine is Combine.MINIMUM:
        return last.granted, last.source
    return last.granted, source


def _element_sources(
    path: str, entries: Iterable[str], setters: Iterable[Setter]
) -> dict[str, tuple[LayerSource, ...]]:
    named: dict[str, tuple[LayerSource, ...]] = dict.fromkeys(entries, ())
    for layer, source in setters:
        asked: Any = layer.values[path]
        for entry in asked:
            if entry in named:
                named[entry] += (source,)
    return named


def _lay_feature(
    features: dict[str, bool],
    sources: dict[str, LayerSource],
    path: str,
    value: Json,
    source: LayerSource,
) -> None:
    """Let a stronger layer switch one feature; an emergency layer can only switch it off."""
    if source.kind is LayerKind.EMERGENCY and value:
        return
    features[path.partition(".")[2]] = bool(value)
    sources[path] = source
