"""What the caller says that a policy looks at, and whether its answer hangs on it.

A recorded decision may lack values that must not be stored. It can be judged again by a policy that
does not look at them, or whose condition comes out the same whatever they were.
"""

from collections.abc import Iterable, Sequence

from fleetplane_policy.attributes import DEFAULT_SCHEMA, AttributeSchema, Source
from fleetplane_policy.grammar import parse
from fleetplane_policy.model import ConditionExplanation, Policy, Truth
from fleetplane_policy.nodes import leaves

Path = tuple[str, ...]
"""Keys from the outside in."""


def claims_read(policy: Policy, schema: AttributeSchema = DEFAULT_SCHEMA) -> frozenset[Path]:
    """Return the paths of the context that the conditions of a policy may read."""
    node, _ = parse(policy.conditions, schema)
    return frozenset(
        path_of(leaf.attribute.shown)
        for leaf in leaves(node)
        if leaf.attribute.source in {Source.CLAIM, Source.EITHER}
    )


def path_of(attribute: str) -> Path:
    """Return the path in the context that an attribute, as it is written, names."""
    steps = tuple(attribute.split("."))
    return steps[1:] if steps[0] in {"claim", "context"} and len(steps) > 1 else steps


def overlaps(one: Path, others: Iterable[Path]) -> bool:
    """Whether a path leads to, into or through one of the others."""
    return any(other[: len(one)] == one[: len(other)] for other in others)


def settled(node: ConditionExplanation, unknown: Sequence[Path]) -> Truth:
    """Return what an explained condition comes to, if the values at some paths are not known."""
    if node.attribute and overlaps(path_of(node.attribute), unknown):
        return Truth.UNKNOWN
    if not node.children:
        return node.result
    parts = [settled(child, unknown) for child in node.children]
    match node.kind:
        case "all":
            return _first(parts, Truth.FALSE, Truth.TRUE)
        case "any":
            return _first(parts, Truth.TRUE, Truth.FALSE)
        case "not":
            return _NEGATED[parts[0]]
        case _:
            return node.result


def _first(parts: Sequence[Truth], decisive: Truth, otherwise: Truth) -> Truth:
    if decisive in parts:
        return decisive
    return Truth.UNKNOWN if Truth.UNKNOWN in parts else otherwise


_NEGATED = {Truth.TRUE: Truth.FALSE, Truth.FALSE: Truth.TRUE, Truth.UNKNOWN: Truth.UNKNOWN}
