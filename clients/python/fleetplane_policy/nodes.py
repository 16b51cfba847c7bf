"""The parsed condition: a small tree whose leaves already hold their tests."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fleetplane_policy.attributes import ResolvedAttribute, Source
from fleetplane_policy.truth import Test


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One comparison.

    `absent` is its value when the attribute is missing, `broken` when the path to it goes through
    something that is not a map.
    """

    attribute: ResolvedAttribute
    operator: str
    value: Any
    test: Test
    absent: int
    broken: int


@dataclass(frozen=True, slots=True)
class All:
    """Every item holds."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one item holds."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The item does not hold."""

    item: "Node"


@dataclass(frozen=True, slots=True)
class Always:
    """No condition."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A part this engine cannot read; it is always an ERROR, so it fails closed."""

    why: str


Node = Leaf | All | AnyOf | Not | Always | Broken


def leaves(node: Node) -> Iterator[Leaf]:
    """Every leaf below a node."""
    match node:
        case Leaf():
            yield node
        case All(items) | AnyOf(items):
            for item in items:
                yield from leaves(item)
        case Not(item):
            yield from leaves(item)


def required(node: Node) -> Iterator[Leaf]:
    """The leaves that must all hold for the whole to hold (the top conjunction)."""
    items = node.items if isinstance(node, All) else (node,)
    return (item for item in items if isinstance(item, Leaf))


def required_strings(node: Node) -> dict[tuple[str, ...], frozenset[str]]:
    """For each attribute pinned by an `eq` or `in` of strings at the top: the strings it may have.

    Any other string makes the whole condition FALSE, which is what makes indexing by it safe.
    """
    pinned: dict[tuple[str, ...], frozenset[str]] = {}
    for leaf in required(node):
        values = _strings(leaf)
        if values is None:
            continue
        where = (leaf.attribute.source, leaf.attribute.root, *leaf.attribute.path)
        pinned[where] = pinned.get(where, values) & values
    return pinned


def without_pinned(node: Node, roots: frozenset[str]) -> Node:
    """The condition without what an index by these request fields has already settled.

    Only for requests whose fields are among the strings `required_strings` names for them: then
    the dropped comparisons are TRUE, which changes no conjunction.
    """
    items = node.items if isinstance(node, All) else (node,)
    left = tuple(item for item in items if not _is_pin(item, roots))
    if not left:
        return Always()
    return left[0] if len(left) == 1 else All(left)


def _is_pin(node: Node, roots: frozenset[str]) -> bool:
    return (
        isinstance(node, Leaf)
        and node.attribute.source is Source.REQUEST
        and node.attribute.root in roots
        and _strings(node) is not None
    )


def _strings(leaf: Leaf) -> frozenset[str] | None:
    if leaf.operator == "eq" and isinstance(leaf.value, str):
        return frozenset((leaf.value,))
    if leaf.operator == "in" and all(isinstance(v, str) for v in leaf.value):
        return frozenset(leaf.value)
    return None
