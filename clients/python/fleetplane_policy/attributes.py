"""The attributes conditions may read: names, types, and whose word counts.

Facts are what the control plane knows; claims are what the caller says. An attribute declared as a
fact is never read from the claims, whatever the caller sends. `EITHER` reads the fact and falls
back to the claim. Spelling in a condition:

    environment          by the schema: an unknown bare name is refused when the policy is written
    fact.environment     the fact only
    claim.environment    the claim only; `context.` means the same
    claim.ticket.id      undeclared claims are allowed under this prefix, of any type
    agent_tags.scope     a path into a map
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from string import ascii_lowercase, digits
from types import MappingProxyType
from typing import Any, Final

from fleetplane_policy.errors import FieldViolation, MalformedInput


class AttributeType(StrEnum):
    """What an attribute holds.

    DECIMAL is a number that may also come as a decimal string ("1.10"), for money. LIST and MAP
    hold elements of one type. TIME is the decision's clock. ANY is judged by what arrives.
    """

    STRING = "STRING"
    NUMBER = "NUMBER"
    DECIMAL = "DECIMAL"
    BOOLEAN = "BOOLEAN"
    LIST = "LIST"
    MAP = "MAP"
    TIME = "TIME"
    ANY = "ANY"


class Source(StrEnum):
    """Whose word counts. REQUEST: the request itself (action, tool, agent_id, now)."""

    REQUEST = "REQUEST"
    FACT = "FACT"
    CLAIM = "CLAIM"
    EITHER = "EITHER"


UNSET: Final = object()
"""An attribute without a default; None is a value (JSON null)."""

DEFAULT_DELIMITERS: Final = ":/."
"""Where a segment ends for the `glob` operator and for targets."""

RESERVED: Final = frozenset({"all", "any", "not", "attr", "op", "value", "if_missing"})
"""Words of the grammar; no attribute can be called so."""

PREFIXES: Final = MappingProxyType(
    {"fact": Source.FACT, "claim": Source.CLAIM, "context": Source.CLAIM}
)

_SUGGESTIONS: Final = 3  # nearest names listed in a refusal: enough to see the typo, still one line
_NAME_LIMIT: Final = 256  # bytes of an attribute name, as for every key in the product
_NAME_CHARACTERS: Final = frozenset(ascii_lowercase + digits + "_")


class UnknownAttribute(ValueError):
    """The schema cannot resolve a path; the text says why and what is near."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One declared attribute.

    `element` is the type inside a LIST or MAP. `guaranteed` promises presence in every request
    (the linter relies on it). `default` stands in when it is absent (UNSET: none); `exists` still
    answers false then. `sensitive` values are hidden in explanations.
    """

    name: str
    type: AttributeType
    source: Source = Source.EITHER
    element: AttributeType = AttributeType.STRING
    guaranteed: bool = False
    default: Any = UNSET
    delimiters: str = DEFAULT_DELIMITERS
    sensitive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedAttribute:
    """Where a condition finds its value: the source, the root name and the path below it."""

    shown: str
    source: Source
    root: str
    path: tuple[str, ...]
    type: AttributeType
    element: AttributeType
    declared: Attribute | None

    @property
    def default(self) -> Any:
        """The declared default, UNSET without one or below the root."""
        return self.declared.default if self.declared and not self.path else UNSET

    @property
    def guaranteed(self) -> bool:
        """Whether every request carries it."""
        return bool(self.declared and self.declared.guaranteed and not self.path)

    @property
    def sensitive(self) -> bool:
        """Whether explanations hide its value."""
        return bool(self.declared and self.declared.sensitive)

    @property
    def delimiters(self) -> str:
        """Where its segments end for `glob`."""
        return self.declared.delimiters if self.declared else DEFAULT_DELIMITERS


class AttributeSchema:
    """An immutable set of declared attributes. Build one with `DEFAULT_SCHEMA.extended(...)`."""

    __slots__ = ("attributes",)

    def __init__(self, attributes: Iterable[Attribute]) -> None:
        self.attributes: Mapping[str, Attribute] = MappingProxyType({a.name: a for a in attributes})

    def extended(self, attributes: Iterable[Attribute]) -> "AttributeSchema":
        """Return this schema with more attributes; well-known claims may be declared anew.

        Raises:
            MalformedInput: a malformed or reserved name, or an attempt to redeclare a fact or a
                field of the request (that would let a caller speak for the registry).
        """
        added = tuple(attributes)
        violations = [v for a in added if (v := self._violation(a)) is not None]
        if violations:
            raise MalformedInput(*violations)
        return AttributeSchema((*self.attributes.values(), *added))

    def _violation(self, attribute: Attribute) -> FieldViolation | None:
        name = attribute.name
        field = f"attributes.{name}"
        if not name or len(name) > _NAME_LIMIT or not _NAME_CHARACTERS.issuperset(name):
            return FieldViolation(field, f"must be 1..{_NAME_LIMIT} of a-z, 0-9 and _")
        if name in RESERVED or name in PREFIXES or name == "time_window":
            return FieldViolation(field, "is a word of the condition grammar")
        existing = self.attributes.get(name)
        if existing and existing.source in {Source.REQUEST, Source.FACT}:
            return FieldViolation(
                field, "is answered by the control plane and cannot be redeclared"
            )
        if attribute.source is Source.REQUEST or attribute.type is AttributeType.TIME:
            return FieldViolation(
                field, "source REQUEST and type TIME belong to the built-in names"
            )
        return None

    def is_declared(self, segments: tuple[str, ...]) -> bool:
        """Whether the last segment is a name of its own, so that no suffix is read into it."""
        names = segments[1:] if segments[0] in PREFIXES else segments
        declared = self.attributes.get(names[0]) if names else None
        if declared is None:
            return False
        return len(names) == 1 or (
            declared.type is AttributeType.MAP and declared.element is AttributeType.STRING
        )

    def resolves(self, segments: tuple[str, ...]) -> bool:
        """Whether `resolve` finds the path."""
        try:
            self.resolve(segments)
        except UnknownAttribute:
            return False
        return True

    def resolve(self, segments: tuple[str, ...]) -> ResolvedAttribute:
        """Find where a path's value comes from.

        Raises:
            UnknownAttribute: no such attribute, or the path goes below something without fields.
        """
        shown = ".".join(segments)
        if not all(segments):
            raise UnknownAttribute("has an empty name in its path")
        if segments[0] in PREFIXES:
            return self._resolve_prefixed(shown, PREFIXES[segments[0]], segments[1:])
        declared = self.attributes.get(segments[0])
        if declared is None:
            raise UnknownAttribute(self._unknown(segments[0], shown))
        return _resolved(shown, declared, declared.source, segments[1:])

    def _resolve_prefixed(
        self, shown: str, source: Source, names: tuple[str, ...]
    ) -> ResolvedAttribute:
        if not names:
            raise UnknownAttribute("names a whole source; name an attribute below it")
        declared = self.attributes.get(names[0])
        if declared is not None:
            if declared.source is Source.REQUEST:
                raise UnknownAttribute(f"is part of the request itself; write {names[0]!r}")
            if declared.source not in {source, Source.EITHER}:
                raise UnknownAttribute(
                    f"{names[0]!r} is a {declared.source.lower()}; write it bare"
                )
            return _resolved(shown, declared, source, names[1:])
        if source is Source.FACT:
            raise UnknownAttribute(self._unknown(names[0], ".".join(names)))
        return ResolvedAttribute(
            shown=shown,
            source=Source.CLAIM,
            root=names[0],
            path=names[1:],
            type=AttributeType.ANY,
            element=AttributeType.ANY,
            declared=None,
        )

    def _unknown(self, name: str, path: str) -> str:
        known = list(self.attributes)
        known += [
            f"{a.name}_exceeds"
            for a in self.attributes.values()
            if a.type in {AttributeType.NUMBER, AttributeType.DECIMAL}
        ]
        near = get_close_matches(name, known, n=_SUGGESTIONS, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"unknown attribute{hint} (claims nobody declared are written claim.{path})"


def _resolved(
    shown: str, declared: Attribute, source: Source, path: tuple[str, ...]
) -> ResolvedAttribute:
    kind, element = declared.type, declared.element
    if path:
        if kind not in {AttributeType.MAP, AttributeType.ANY}:
            raise UnknownAttribute(
                f"{declared.name} is a {kind.lower()} and has no fields;"
                " operators are written {attr, op, value}"
            )
        scalar = element not in {AttributeType.MAP, AttributeType.ANY}
        if kind is AttributeType.MAP and scalar and len(path) > 1:
            raise UnknownAttribute(f"the values of {declared.name} are {element.lower()}s")
        kind = element if kind is AttributeType.MAP and scalar else AttributeType.ANY
        element = AttributeType.ANY
    return ResolvedAttribute(
        shown=shown,
        source=source,
        root=declared.name,
        path=path,
        type=kind,
        element=element,
        declared=declared,
    )


def _declare(
    source: Source, kind: AttributeType, *names: str, sure: bool = False
) -> list[Attribute]:
    return [Attribute(name=n, type=kind, source=source, guaranteed=sure) for n in names]


DEFAULT_SCHEMA: Final = AttributeSchema(
    [
        *_declare(Source.REQUEST, AttributeType.STRING, "action", "tool", "agent_id", sure=True),
        *_declare(Source.REQUEST, AttributeType.TIME, "now", sure=True),
        *_declare(
            Source.FACT,
            AttributeType.STRING,
            "agent_name",
            "agent_version",
            "agent_status",
            sure=True,
        ),
        *_declare(Source.FACT, AttributeType.STRING, "namespace", sure=True),
        *_declare(Source.FACT, AttributeType.STRING, "agent_owner", "agent_model"),
        *_declare(Source.FACT, AttributeType.MAP, "agent_tags", sure=True),
        *_declare(Source.FACT, AttributeType.LIST, "agent_capabilities", "agent_tools", sure=True),
        *_declare(
            Source.EITHER,
            AttributeType.STRING,
            *("environment", "region", "data_classification", "user", "session_id", "task_id"),
            *(
                "resource",
                "resource_type",
                "operation",
                "domain",
                "url",
                "path",
                "database",
                "table",
            ),
            *("recipient", "ip_address", "currency", "provider", "model"),
        ),
        *_declare(Source.EITHER, AttributeType.DECIMAL, "estimated_cost", "amount"),
        *_declare(
            Source.EITHER, AttributeType.NUMBER, "estimated_tokens", "risk_score", "record_count"
        ),
        *_declare(Source.EITHER, AttributeType.BOOLEAN, "destructive", "contains_pii"),
        *_declare(Source.EITHER, AttributeType.LIST, "labels"),
    ]
)
"""The attributes every namespace has. Facts: `agent_*` and `namespace`. Of the request itself:
`action`, `tool` (empty when the action uses none, never absent), `agent_id`, `now`. The others are
what callers usually claim; a fact of the same name goes first."""
