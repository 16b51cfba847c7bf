"""Checks `extra` against the JSON Schema of the namespace: `schema.ExtraValidator` over jsonschema.

Two judges come from one document. The complete one judges what an agent would run. The sparse one
judges what a layer sets: it passes whatever other layers could still complete (missing keys, `not`,
`if`, the "only one" of `oneOf`), so that it never refuses what could be right once merged.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from jsonschema.validators import create
from referencing import Registry

from controlplane.domain.configs import schema_document as accepted
from controlplane.domain.configs.document import Json, leaves
from controlplane.domain.configs.schema import ExtraValidator
from controlplane.domain.configs.schema_keywords import NEVER, Keywords
from controlplane.domain.configs.schema_meter import MAX_STEPS, Meter, TooMuchWorkError

MAX_REPORTED: Final = 1_000
"""Violations of one document that are told apart; more than anybody will mend one by one."""

_VALUES_OF_KEYWORDS: Final = frozenset(Keywords(Meter(), patterns={}, targets={}).table()) | {
    "minContains",
    "maxContains",
}


class CompiledExtraSchema:
    """The check of one document, which `schema_document.check_document` must have accepted.

    Not for several threads at once: it counts its work.
    """

    def __init__(self, document: Mapping[str, Json]) -> None:
        self._meter = Meter()
        compiled = _compiled(document)
        known = list(accepted.subschemas(compiled))
        named = accepted.targets(accepted.subschemas(document))
        by_pointer = {one.pointer: one.schema for one in known}
        targets = {
            one.schema["$ref"]: by_pointer[named[accepted.fragment(one.schema["$ref"])].pointer]
            for one in known
            if isinstance(one.schema, Mapping) and "$ref" in one.schema
        }
        patterns = {
            expression: accepted.compile_pattern(expression)
            for _, _, expression in accepted.patterns(known)
        }
        self._complete = _judge(compiled, Keywords(self._meter, patterns=patterns, targets=targets))
        self._sparse = _judge(
            compiled,
            Keywords(self._meter, patterns=patterns, targets=targets, complete=self._complete),
        )

    def violations(self, extra: Mapping[str, Json], *, sparse: bool) -> list[tuple[str, str]]:
        """Return (dotted path below `extra`; what is wrong) of each problem; never raises.

        See `schema.ExtraValidator`. A check that takes too much work is a violation of the whole.
        """
        self._meter.reset()
        judge = self._sparse if sparse else self._complete
        try:
            errors = [
                (_dotted(error.absolute_path), error.message)
                for error in islice(judge.iter_errors(extra), MAX_REPORTED)
            ]
        except TooMuchWorkError:
            return [("", f"takes more than {MAX_STEPS:,} steps to check against the schema")]
        return list(dict.fromkeys(errors))


class OnlyNew:
    """Reports what a change makes wrong, not what was wrong before and was left alone.

    A schema may be registered although layers violate it; unrelated changes, and changes that mend
    some of it, have to stay possible.
    """

    def __init__(self, validator: ExtraValidator, before: Mapping[str, Json]) -> None:
        self._validator = validator
        self._before = before

    def violations(self, extra: Mapping[str, Json], *, sparse: bool) -> list[tuple[str, str]]:
        """Return the new violations of `extra`, which was `before`; see `schema.ExtraValidator`."""
        found = self._validator.violations(extra, sparse=sparse)
        if not found:
            return []
        known = frozenset(self._validator.violations(self._before, sparse=sparse))
        changed = _changed_leaves(self._before, extra)
        return [one for one in found if one not in known or _is_within(one[0], changed)]


def _changed_leaves(before: Mapping[str, Json], after: Mapping[str, Json]) -> set[str]:
    old, new = (
        {path.removeprefix("."): value for path, value in leaves(document, "")}
        for document in (before, after)
    )
    return {
        path
        for path in old.keys() | new.keys()
        if (type(old.get(path)), old.get(path)) != (type(new.get(path)), new.get(path))
    }


def _is_within(path: str, leaf_paths: set[str]) -> bool:
    """Whether a violation's path is one of the leaves, or lies in the list that a leaf is."""
    return path.partition("[")[0] in leaf_paths


def _judge(schema: Any, keywords: Keywords) -> Validator:
    made = create(
        meta_schema=Draft202012Validator.META_SCHEMA,
        validators=keywords.table(),
        type_checker=Draft202012Validator.TYPE_CHECKER,
    )
    # An empty registry: nothing outside the document can be reached, let alone fetched.
    return made(schema, registry=Registry())


def _compiled(schema: Any) -> Any:
    """Return a schema with the known keywords only, `false` as a keyword.

    Leaves out `$schema` and `$id` too, which would make jsonschema choose other keywords.
    """
    if isinstance(schema, bool):
        return schema or {NEVER: True}
    result: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in accepted.ONE_INSIDE or keyword in accepted.ONE_IN_PLACE:
            result[keyword] = _compiled(value)
        elif keyword in accepted.SEVERAL:
            result[keyword] = [_compiled(one) for one in value]
        elif keyword in accepted.NAMED:
            result[keyword] = {name: _compiled(one) for name, one in value.items()}
        elif keyword in _VALUES_OF_KEYWORDS and keyword != NEVER:
            result[keyword] = value
    return result


def _dotted(path: Iterable[str | int]) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")
