"""Sparse layers: what somebody explicitly set, for whom, and nothing else.

Defaults are never stored. A path that no layer sets follows the schema default of the release that
reads it, so a better default reaches every agent that did not ask for something else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from controlplane.domain.configs.document import Json
from controlplane.domain.errors import InvalidArgument

MAX_TARGET_BYTES = 256
"""UTF-8 bytes of an agent name or agent id inside a scope: the bound of every key here."""


class LayerKind(StrEnum):
    """Where a layer sits, from the weakest to the strongest; members are declared in that order."""

    SCHEMA_DEFAULT = "SCHEMA_DEFAULT"
    """What the release ships. Never stored, never a bound."""
    NAMESPACE = "NAMESPACE"
    """Every agent of the namespace."""
    AGENT_NAME = "AGENT_NAME"
    """Every version of one agent name."""
    AGENT_ID = "AGENT_ID"
    """One `name@version`."""
    EMERGENCY = "EMERGENCY"
    """Every agent of the namespace, above everything else; can only restrict."""

    @property
    def rank(self) -> int:
        """Position in the order of precedence, 0 for SCHEMA_DEFAULT. Compare ranks, not members."""
        return _RANKS[self]


_RANKS = {kind: rank for rank, kind in enumerate(LayerKind)}

_WHOLE = {
    LayerKind.SCHEMA_DEFAULT: "default",
    LayerKind.NAMESPACE: "namespace",
    LayerKind.EMERGENCY: "emergency",
}
"""Keys of the kinds that have no target."""

_TARGETED = {LayerKind.AGENT_NAME: "name", LayerKind.AGENT_ID: "id"}
"""Prefixes of the kinds that have one."""

_WHOLE_BY_KEY = {key: kind for kind, key in _WHOLE.items()}
_TARGETED_BY_PREFIX = {prefix: kind for kind, prefix in _TARGETED.items()}


@dataclass(frozen=True, slots=True)
class LayerScope:
    """What a layer applies to. Raises InvalidArgument when the target does not fit the kind."""

    kind: LayerKind
    target: str = ""
    """The agent name (AGENT_NAME) or agent id (AGENT_ID); empty for every other kind."""

    def __post_init__(self) -> None:
        if self.kind in _WHOLE:
            if self.target:
                raise InvalidArgument.of("scope", f"{self.kind} takes no target")
            return
        if not self.target:
            raise InvalidArgument.of("scope", f"{self.kind} needs a target")
        if len(self.target.encode(errors="replace")) > MAX_TARGET_BYTES:
            raise InvalidArgument.of("scope", f"the target is longer than {MAX_TARGET_BYTES} bytes")
        if not self.target.isprintable():
            raise InvalidArgument.of("scope", "the target holds unprintable characters")

    @property
    def key(self) -> str:
        """Storage key: `namespace`, `name:<name>`, `id:<agent_id>`, `emergency` or `default`."""
        return _WHOLE.get(self.kind) or f"{_TARGETED[self.kind]}:{self.target}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """Return the scope whose `key` this is; InvalidArgument (field `scope`) when it is none."""
        whole = _WHOLE_BY_KEY.get(key)
        if whole is not None:
            return cls(whole)
        prefix, colon, target = key.partition(":")
        kind = _TARGETED_BY_PREFIX.get(prefix) if colon else None
        if kind is None:
            raise InvalidArgument.of(
                "scope",
                "is not one of namespace, name:<agent name>, id:<agent id>, emergency",
            )
        return cls(kind, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigLayer:
    """The paths somebody set in one scope. Immutable: a change is a new layer."""

    scope: LayerScope
    values: Mapping[str, Json] = field(default_factory=dict)
    """Leaf by dotted path (`temperature`, `features.web_search`, `extra.team.color`); sparse."""
    revision: int = 0
    """Revision of the namespace at which this layer was committed; 0: not committed yet. The store
    assigns it."""
    author: str = ""
    """Who made this revision, as authenticated."""
    reason: str = ""
    """Why, in the author's words; may be empty."""
    updated_at_ms: int = 0
    """When, in milliseconds since the Unix epoch."""
    may_widen: frozenset[str] = frozenset()
    """Restrictive paths on which more specific layers may override the value of this one instead of
    only narrowing it. An emergency layer stays a bound whatever this says."""
    restored_from: int = 0
    """The older revision whose values this one brought back; 0: not a rollback."""


def in_precedence(layers: Iterable[ConfigLayer]) -> list[ConfigLayer]:
    """Return the layers from the weakest to the strongest.

    Raises ValueError for two layers of one kind (an agent has one of each) and for a layer that
    claims to be the schema defaults: both are mistakes of the calling code, not of a user.
    """
    ordered = sorted(layers, key=lambda layer: _RANKS[layer.scope.kind])
    previous = LayerKind.SCHEMA_DEFAULT
    for layer in ordered:
        if layer.scope.kind is previous:
            raise ValueError(f"{layer.scope.key} does not belong to a chain that has a {previous}")
        previous = layer.scope.kind
    return ordered


def layer_key(layers: Iterable[ConfigLayer]) -> tuple[tuple[str, int], ...]:
    """Return what a merge of these layers may be cached under: scope keys with their revisions."""
    return tuple((layer.scope.key, layer.revision) for layer in in_precedence(layers))


def scopes_for_agent(agent_name: str, agent_id: str) -> tuple[LayerScope, ...]:
    """Return the scopes whose layers make up the configuration of one agent, weakest first."""
    return (
        LayerScope(LayerKind.NAMESPACE),
        LayerScope(LayerKind.AGENT_NAME, agent_name),
        LayerScope(LayerKind.AGENT_ID, agent_id),
        LayerScope(LayerKind.EMERGENCY),
    )
