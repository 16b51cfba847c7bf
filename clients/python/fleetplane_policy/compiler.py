"""Nodes compiled into closures: built once when a policy is written, never during a decision."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from fleetplane_policy.attributes import ResolvedAttribute, Source
from fleetplane_policy.model import Request
from fleetplane_policy.nodes import All, Always, AnyOf, Broken, Leaf, Node, Not
from fleetplane_policy.truth import ERROR, FALSE, NEGATED, TRUE, Condition, Test

ABSENT: Final = object()
"""What a reader returns for an attribute the request does not have."""

UNREADABLE: Final = object()
"""What a reader returns when the path goes through something that is not a map."""

Reader = Callable[[Request], Any]


class ConditionCompiler:
    """Compiles trees into closures that answer FALSE, TRUE, MISSING or ERROR.

    Equal parts become the same closure: ten thousand policies that all ask for
    `environment: production` ask with one, which keeps a large set small and in the processor's
    cache. Closures live as long as a policy uses them. One compiler serves one attribute schema.
    """

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: WeakValueDictionary[Hashable, Condition] = WeakValueDictionary()

    def compile(self, node: Node) -> Condition:
        """Compile one tree."""
        match node:
            case Leaf():
                return self._shared(_leaf_key(node), lambda: _compile_leaf(node))
            case All(items):
                return self._group("all", items, _compile_all)
            case AnyOf(items):
                return self._group("any", items, _compile_any)
            case Not(item):
                inner = self.compile(item)
                return self._shared(("not", id(inner)), lambda: _compile_not(inner))
            case Always():
                return _always
            case Broken():
                return _error

    def _group(
        self,
        kind: str,
        items: tuple[Node, ...],
        build: Callable[[tuple[Condition, ...]], Condition],
    ) -> Condition:
        parts = tuple(self.compile(item) for item in items)
        # The parts live at least as long as the closure over them, so their ids stay theirs.
        return self._shared((kind, *map(id, parts)), lambda: build(parts))

    def _shared(self, key: Hashable, build: Callable[[], Condition]) -> Condition:
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = build()
        return made


def _leaf_key(leaf: Leaf) -> Hashable:
    attribute = leaf.attribute
    where = (attribute.source, attribute.root, attribute.path)
    return (*where, leaf.operator, _frozen(leaf.value), leaf.absent, leaf.broken)


def _frozen(value: Any) -> Hashable:
    """A literal as a key; the types keep 1, 1.0 and true apart."""
    if isinstance(value, list | tuple):
        return ("list", *map(_frozen, value))
    if isinstance(value, Mapping):
        return ("map", *((key, _frozen(item)) for key, item in value.items()))
    return (type(value), value)


def _always(request: Request) -> int:
    del request
    return TRUE


def _error(request: Request) -> int:
    del request
    return ERROR


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
