"""The keywords of JSON Schema as Fleetplane evaluates them: counted, with RE2, saying paths.

jsonschema's own keywords write the whole value into every message and search patterns with
Python's `re`; both cost whatever a schema's author likes. These write short messages, hold back
the values, and every one of them is charged to a `Meter`.
"""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

from jsonschema import ValidationError
from jsonschema.protocols import Validator

from controlplane.domain.configs.document import Json, encoded
from controlplane.domain.configs.schema_document import Regex
from controlplane.domain.configs.schema_meter import Keyword, Meter

_SAID_CHARS: Final = 64
"""Of a value of the schema that is spelled out in a message."""

_SAID_VALUES: Final = 10
"""Values of an `enum` that are spelled out."""

_ENCODED_PER_STEP: Final = 64
"""Bytes of JSON that are written for a comparison in about the time of one step."""

_SEARCHED_PER_STEP: Final = 400
"""Characters times instructions of a pattern: what RE2 runs in about the time of one step when its
fast automaton does not fit into memory."""

_KINDS: Final = {
    "object": "an object",
    "array": "a list",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}


def said(value: Json) -> str:
    """Return a value of the schema for a message, whole or its beginning."""
    text = encoded(value).decode()
    return text if len(text) <= _SAID_CHARS else f"{text[:_SAID_CHARS]}..."


def _wrong(message: str, *path: str) -> ValidationError:
    return ValidationError(message, path=path)


def _bound(kind: str, holds: Callable[[Any, Any], bool], message: str) -> Keyword:
    """Return a keyword that compares values of one type with its own value."""

    def keyword(
        validator: Validator, value: Any, instance: Any, _schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if validator.is_type(instance, kind) and not holds(instance, value):
            yield _wrong(message.format(said(value)))

    return keyword


_BOUNDS: Final[Mapping[str, Keyword]] = {
    "minimum": _bound("number", lambda x, v: x >= v, "must be at least {}"),
    "maximum": _bound("number", lambda x, v: x <= v, "must be at most {}"),
    "exclusiveMinimum": _bound("number", lambda x, v: x > v, "must be more than {}"),
    "exclusiveMaximum": _bound("number", lambda x, v: x < v, "must be less than {}"),
    # As people write them: 0.3 is a multiple of 0.1, although their doubles are not.
    "multipleOf": _bound(
        "number",
        lambda x, v: (Fraction(str(x)) / Fraction(str(v))).denominator == 1,
        "must be a multiple of {}",
    ),
    "minLength": _bound("string", lambda x, v: len(x) >= v, "needs at least {} characters"),
    "maxLength": _bound("string", lambda x, v: len(x) <= v, "may have at most {} characters"),
    "minItems": _bound("array", lambda x, v: len(x) >= v, "needs at least {} entries"),
    "maxItems": _bound("array", lambda x, v: len(x) <= v, "may have at most {} entries"),
    "minProperties": _bound("object", lambda x, v: len(x) >= v, "needs at least {} keys"),
    "maxProperties": _bound("object", lambda x, v: len(x) <= v, "may have at most {} keys"),
}

NEVER: Final = "never"
"""Keyword of this module's own: what the schema `false` is compiled into."""

_LIFTED_WHEN_SPARSE: Final = frozenset(
    {"required", "dependentRequired", "minProperties", "not", "if"}
)
"""Keywords that a layer may seem to violate only because other layers hold the rest."""


class Keywords:
    """The keywords over one compiled document.

    With `complete`, they are for what one layer sets: keys may be missing. `complete` then judges
    what is inside of lists, which no other layer can add to.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        patterns: Mapping[str, Regex],
        targets: Mapping[str, Any],
        complete: Validator | None = None,
    ) -> None:
        self._meter = meter
        self._patterns = patterns
        self._targets = targets
        self._complete = complete

    def table(self) -> dict[str, Keyword]:
        """Return every keyword by name."""
        every: dict[str, Keyword] = {
            **_BOUNDS,
            NEVER: _never,
            "$ref": self._ref,
            "type": _type,
            "enum": self._enum,
            "const": lambda v, value, x, s: self._enum(v, [value], x, s),
            "required": _required,
            "dependentRequired": _dependent_required,
            "dependentSchemas": _dependent_schemas,
            "properties": _properties,
            "patternProperties": self._pattern_properties,
            "additionalProperties": self._additional_properties,
            "propertyNames": _property_names,
            "pattern": self._pattern,
            "items": self._items,
            "prefixItems": self._prefix_items,
            "contains": self._contains,
            "uniqueItems": self._unique_items,
            "allOf": _all_of,
            "anyOf": _any_of,
            "oneOf": _one_of,
            "not": _not,
            "if": _if,
        }
        if self._complete is not None:
            every = {k: v for k, v in every.items() if k not in _LIFTED_WHEN_SPARSE}
            every["oneOf"] = _any_of
        return {name: self._meter.counted(name, keyword) for name, keyword in every.items()}

    def _ref(
        self, validator: Validator, value: str, instance: Any, _schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        return _into(validator, instance, self._targets[value])

    def _canonical(self, value: Json) -> bytes:
        text = encoded(_number(value))
        self._meter.spend(len(text) // _ENCODED_PER_STEP)
        return text

    def _enum(
        self, _validator: Validator, value: list[Json], instance: Any, _schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if self._complete is not None and isinstance(instance, dict):
            return  # a part of an object equals none
        if self._canonical(instance) in map(self._canonical, value):
            return
        listed = ", ".join(said(one) for one in value[:_SAID_VALUES])
        more = f" or {len(value) - _SAID_VALUES} more" if len(value) > _SAID_VALUES else ""
        yield _wrong(f"must be {'one of ' if len(value) > 1 else ''}{listed}{more}")

    def _found(self, expression: str, text: str) -> bool:
        pattern = self._patterns[expression]
        self._meter.spend(1 + len(text) * int(pattern.programsize) // _SEARCHED_PER_STEP)
        return pattern.search(text) is not None

    def _pattern(
        self, _validator: Validator, value: str, instance: Any, _schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not self._found(value, instance):
            yield _wrong(f"must match {said(value)}")

    def _pattern_properties(
        self,
        validator: Validator,
        value: Mapping[str, Any],
        instance: Any,
        _schema: Mapping[str, Any],
    ) -> Iterator[ValidationError]:
        if isinstance(instance, dict):
            for expression, inner in value.items():
                for key in instance:
                    if self._found(expression, key):
                        yield from _into(validator, instance[key], inner, key)

    def _additional_properties(
        self, validator: Validator, value: Any, instance: Any, schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if not isinstance(instance, dict):
            return
        expressions = schema.get("patternProperties", ())
        for key in instance.keys() - schema.get("properties", {}).keys():
            if not any(self._found(one, key) for one in expressions):
                yield from _into(validator, instance[key], value, key)

    def _items(
        self, validator: Validator, value: Any, instance: Any, schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if isinstance(instance, list):
            first = len(schema.get("prefixItems", ()))
            for place in range(first, len(instance)):
                yield from _into(self._complete or validator, instance[place], value, place)

    def _prefix_items(
        self, validator: Validator, value: list[Any], instance: Any, _schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if isinstance(instance, list):
            for place, (entry, inner) in enumerate(zip(instance, value, strict=False)):
                yield from _into(self._complete or validator, entry, inner, place)

    def _contains(
        self, validator: Validator, value: Any, instance: Any, schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if not isinstance(instance, list):
            return
        judge = self._complete or validator
        matching = sum(_fits(judge, entry, value) for entry in instance)
        least, most = schema.get("minContains", 1), schema.get("maxContains")
        if matching < least:
            yield _wrong(f"needs at least {least} entries as `contains` asks, has {matching}")
        elif most is not None and matching > most:
            yield _wrong(f"may have at most {most} entries as `contains` says, has {matching}")

    def _unique_items(
        self, _validator: Validator, value: Any, instance: Any, _schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if value and isinstance(instance, list):
            self._meter.spend(len(instance))
            if len({self._canonical(one) for one in instance}) < len(instance):
                yield _wrong("must not hold an entry twice")


def _number(value: Json) -> Json:
    """Return 1.0 as 1: to JSON Schema they are the same number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _number(one) for key, one in value.items()}
    return [_number(one) for one in value] if isinstance(value, list) else value


def _into(
    validator: Validator, instance: Any, schema: Any, step: str | int | None = None
) -> Iterator[ValidationError]:
    """Check something with a schema of the document; `step` leads from the value to it."""
    if schema is True:
        return
    for error in validator.evolve(schema=schema).iter_errors(instance):
        if step is not None:
            error.path.appendleft(step)
        yield error


def _fits(validator: Validator, instance: Any, schema: Any) -> bool:
    return next(_into(validator, instance, schema), None) is None


def _never(
    _validator: Validator, _value: Any, _instance: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    yield _wrong("is not allowed")


def _type(
    validator: Validator, value: Any, instance: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    kinds = value if isinstance(value, list) else [value]
    if not any(validator.is_type(instance, kind) for kind in kinds):
        yield _wrong(f"must be {' or '.join(_KINDS[kind] for kind in kinds)}")


def _required(
    _validator: Validator, value: list[str], instance: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        yield from (_wrong("is required", key) for key in value if key not in instance)


def _dependent_required(
    _validator: Validator,
    value: Mapping[str, list[str]],
    instance: Any,
    _schema: Mapping[str, Any],
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for key, needed in value.items():
            if key in instance:
                for one in needed:
                    if one not in instance:
                        yield _wrong(f"is required beside {said(key)}", one)


def _dependent_schemas(
    validator: Validator, value: Mapping[str, Any], instance: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for key, inner in value.items():
            if key in instance:
                yield from _into(validator, instance, inner)


def _properties(
    validator: Validator, value: Mapping[str, Any], instance: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for key, inner in value.items():
            if key in instance:
                yield from _into(validator, instance[key], inner, key)


def _property_names(
    validator: Validator, value: Any, instance: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for key in instance:
            if not _fits(validator, key, value):
                yield _wrong("is not a name that `propertyNames` allows", key)


def _all_of(
    validator: Validator, value: list[Any], instance: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    for inner in value:
        yield from _into(validator, instance, inner)


def _any_of(
    validator: Validator, value: list[Any], instance: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not any(_fits(validator, instance, inner) for inner in value):
        yield _wrong(f"fits none of the {len(value)} alternatives")


def _one_of(
    validator: Validator, value: list[Any], instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    fitting = sum(_fits(validator, instance, inner) for inner in value)
    if fitting == 0:
        yield from _any_of(validator, value, instance, schema)
    elif fitting > 1:
        yield _wrong(f"fits {fitting} of the {len(value)} alternatives; exactly one may fit")


def _not(
    validator: Validator, value: Any, instance: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if _fits(validator, instance, value):
        yield _wrong("is what `not` excludes")


def _if(
    validator: Validator, value: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    branch = "then" if _fits(validator, instance, value) else "else"
    if branch in schema:
        yield from _into(validator, instance, schema[branch])
