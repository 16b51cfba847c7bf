"""Nodes compiled into closures: built once when a policy is written, never during a decision."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from controlplane.domain.policies.attributes import ResolvedAttribute, Source
from controlplane.domain.policies.model import Request
from controlplane.domain.policies.nodes import All, Always, AnyOf, Broken, Leaf, Node, Not
from controlplane.domain.policies.truth import ERROR, FALSE, NEGATED, TRUE, Condition, Test

ABSENT: Final = object()
"""What a reader returns for an attribute the request does not have."""

UNREADABLE: Final = object()
"""What a reader returns when the path goes through something that is not a map."""

Reader = Callable[[Request], Any]


def compile_node(node: Node) -> Condition:
    """Compile a tree into one closure that answers FALSE, TRUE, MISSING or ERROR."""
    match node:
        case Leaf():
            return _compile_leaf(node)
        case All(items):
            return _compile_all(tuple(compile_node(item) for item in items))
        case AnyOf(items):
            return _compile_any(tuple(compile_node(item) for item in items))
        case Not(item):
            return _compile_not(compile_node(item))
        case Always():
            return lambda _: TRUE
        case Broken():
            return lambda _: ERROR


def _compile_not(inner: Condition) -> Condition:
    negated = NEGATED
    return lambda request: negated[inner(request)]


def _compile_all(items: tuple[Condition, ...]) -> Condition:
    if len(items) == 2:  # noqa: PLR2004 - the commonest shape, unrolled
        first, second = items

        def both(request: Request) -> int:
            one = first(request)
            if one == FALSE:
                return FALSE
            other = second(request)
            return other if one == TRUE or other == FALSE else max(one, other)

        return both

    def every(request: Request) -> int:
        result = TRUE
        for item in items:
            judged = item(request)
            if judged == FALSE:
                return FALSE
            if judged != TRUE:
                result = max(result, judged)
        return result

    return every


def _compile_any(items: tuple[Condition, ...]) -> Condition:
    def some(request: Request) -> int:
        result = FALSE
        for item in items:
            judged = item(request)
            if judged == TRUE:
                return TRUE
            if judged != FALSE:
                result = max(result, judged)
        return result

    return some


def _compile_leaf(leaf: Leaf) -> Condition:
    attribute, test, absent = leaf.attribute, leaf.test, leaf.absent
    if attribute.source is Source.REQUEST:
        return _request_leaf(attribute.root, test)
    if attribute.path:
        return _path_leaf(compile_reader(attribute), test, absent, leaf.broken)
    name, nowhere = attribute.root, ABSENT

    def fact(request: Request) -> int:
        value = request.facts.get(name, nowhere)
        return absent if value is nowhere else test(value)

    def claim(request: Request) -> int:
        value = request.claims.get(name, nowhere)
        return absent if value is nowhere else test(value)

    def either(request: Request) -> int:
        value = request.facts.get(name, nowhere)
        if value is nowhere:
            value = request.claims.get(name, nowhere)
        return absent if value is nowhere else test(value)

    return {Source.FACT: fact, Source.CLAIM: claim, Source.EITHER: either}[attribute.source]


def _request_leaf(name: str, test: Test) -> Condition:
    leaf_of: dict[str, Condition] = {
        "action": lambda request: test(request.action),
        "tool": lambda request: test(request.tool),
        "agent_id": lambda request: test(request.agent_id),
        "now": lambda request: test(request.now_ms),
    }
    return leaf_of[name]


def _path_leaf(read: Reader, test: Test, absent: int, broken: int) -> Condition:
    nowhere, unreadable = ABSENT, UNREADABLE

    def leaf(request: Request) -> int:
        value = read(request)
        if value is nowhere:
            return absent
        return broken if value is unreadable else test(value)

    return leaf


def compile_reader(attribute: ResolvedAttribute) -> Reader:
    """Compile "the value of this attribute": the value, ABSENT or UNREADABLE."""
    root, path = attribute.root, attribute.path
    if attribute.source is Source.REQUEST:
        field = {"now": "now_ms"}.get(root, root)
        return lambda request: getattr(request, field)
    if attribute.source is Source.FACT:
        return lambda request: _walk(request.facts.get(root, ABSENT), path)
    if attribute.source is Source.CLAIM:
        return lambda request: _walk(request.claims.get(root, ABSENT), path)

    def either(request: Request) -> Any:
        value = request.facts.get(root, ABSENT)
        return _walk(request.claims.get(root, ABSENT) if value is ABSENT else value, path)

    return either


def _walk(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if value is ABSENT:
            return ABSENT
        if not isinstance(value, Mapping):
            return UNREADABLE
        value = value.get(name, ABSENT)
    return value
