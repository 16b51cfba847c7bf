"""The typed settings every agent has: types, ranges, defaults, and how layers combine.

`BASE_SCHEMA` is what the product ships. A namespace may add the check of its own `extra` keys
(`ConfigSchema.with_extra`); an operator may choose other limits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol, Self

from controlplane.domain.configs.document import Json

FEATURES = "features"
"""Switches, one boolean below it per feature."""

EXTRA = "extra"
"""Free keys of the namespace, any JSON below it."""

_INT32_MAX = 2**31 - 1
"""Widest number of an int32 field of the wire."""


class ValueType(StrEnum):
    """What a setting holds."""

    TEXT = "text"
    NUMBER = "number"
    INTEGER = "integer"
    NAMES = "list of names"
    DOMAINS = "list of domains"


class Combine(StrEnum):
    """What happens when several layers set one path. Schema defaults never take part."""

    MOST_SPECIFIC = "MOST_SPECIFIC"
    """The strongest layer that sets it wins."""
    MINIMUM = "MINIMUM"
    """The smallest number wins: a layer can lower a limit, not raise it."""
    UNION = "UNION"
    """Every entry of every layer counts."""
    INTERSECTION = "INTERSECTION"
    """Only what every layer that sets it allows; an empty list allows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRule:
    """One setting."""

    path: str
    type: ValueType
    default: Json
    """In force while no layer sets the path; not a bound, and never stored."""
    combine: Combine = Combine.MOST_SPECIFIC
    minimum: float | None = None
    """Smallest number accepted; None: no bound below."""
    maximum: float | None = None
    """Largest number accepted; None: no bound above."""
    above: float | None = None
    """Numbers must be larger than this, where the bound itself is no sensible value."""
    meaning: str = ""
    """One line with the unit, for people."""

    @property
    def restrictive(self) -> bool:
        """Whether a weaker layer's value bounds the stronger ones."""
        return self.combine is not Combine.MOST_SPECIFIC


BASE_FIELDS: Mapping[str, FieldRule] = {
    rule.path: rule
    for rule in (
        FieldRule(
            path="model",
            type=ValueType.TEXT,
            default="claude-sonnet-4-6",
            meaning="Name of the language model",
        ),
        FieldRule(
            path="temperature",
            type=ValueType.NUMBER,
            default=0.7,
            minimum=0,
            maximum=2,
            meaning="Sampling temperature; a preference, not a limit: the most specific layer wins",
        ),
        FieldRule(
            path="max_tokens",
            type=ValueType.INTEGER,
            default=4096,
            combine=Combine.MINIMUM,
            minimum=1,
            maximum=1_000_000,
            meaning="Tokens one model answer may have",
        ),
        FieldRule(
            path="max_retries",
            type=ValueType.INTEGER,
            default=3,
            combine=Combine.MINIMUM,
            minimum=0,
            maximum=100,
            meaning="Further attempts after a failed model or tool call; 0: none",
        ),
        FieldRule(
            path="timeout_seconds",
            type=ValueType.NUMBER,
            default=30.0,
            combine=Combine.MINIMUM,
            above=0,
            maximum=86_400,
            meaning="Seconds one model or tool call may take; at most a day",
        ),
        FieldRule(
            path="rate_limit_rpm",
            type=ValueType.INTEGER,
            default=60,
            combine=Combine.MINIMUM,
            minimum=0,
            maximum=_INT32_MAX,
            meaning="Model calls per minute; 0: no call at all",
        ),
        FieldRule(
            path="blocked_tools",
            type=ValueType.NAMES,
            default=[],
            combine=Combine.UNION,
            meaning="Tools the agent must not use",
        ),
        FieldRule(
            path="allowed_domains",
            type=ValueType.DOMAINS,
            default=None,
            combine=Combine.INTERSECTION,
            meaning="Domains the agent may talk to; unset: all, empty: none",
        ),
    )
}
"""Every typed setting, in the order in which they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigLimits:
    """Sizes. All are settings of the daemon; these are the documented defaults."""

    key_bytes: int = 256
    """UTF-8 bytes of a whole dotted path."""
    name_bytes: int = 256
    """UTF-8 bytes of a model name and of each entry of a list setting."""
    layer_bytes: int = 256 * 1024
    """Bytes of one layer's values as compact JSON."""
    depth: int = 16
    """Levels of keys and lists below `extra`: far beyond settings, far below a parser's stack."""
    change_paths: int = 1_000
    """Paths one change may set and unset together: bounds the work of refusing it."""
    reason_bytes: int = 1024
    """UTF-8 bytes of the reason of a change."""


class ExtraValidator(Protocol):
    """Checks `extra` against what the namespace registered (a JSON Schema, behind an adapter)."""

    def violations(self, extra: Mapping[str, Json], *, sparse: bool) -> Sequence[tuple[str, str]]:
        """Return (dotted path below `extra`; what is wrong) of each problem.

        With `sparse`, `extra` is what one layer sets: a missing key is no violation, other layers
        may set it. Without, it is what an agent would run. Must not raise.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSchema:
    """Everything validation and merging need to know."""

    fields: Mapping[str, FieldRule] = field(default_factory=lambda: BASE_FIELDS)
    """Typed settings by path. Ranges and defaults may be others; merging needs all paths of
    BASE_FIELDS."""
    limits: ConfigLimits = field(default_factory=ConfigLimits)
    extra: ExtraValidator | None = None
    """None: the namespace registered nothing, every JSON is accepted under `extra`."""

    def with_extra(self, validator: ExtraValidator | None) -> Self:
        """Return this schema with the namespace's own check of `extra`."""
        return replace(self, extra=validator)


BASE_SCHEMA = ConfigSchema()
"""What the product ships."""
