"""Checks every value before it is stored, and gives it its one stored form.

Numbers arrive as floats from a protobuf Struct: integral ones are stored as integers where an
integer is meant. Booleans are not numbers. Every violation of a request is reported at once.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from controlplane.domain.configs import domains
from controlplane.domain.configs.document import Json, encoded, leaves, nested
from controlplane.domain.configs.layers import LayerKind
from controlplane.domain.configs.paths import path_problem, shown
from controlplane.domain.configs.schema import (
    BASE_SCHEMA,
    EXTRA,
    FEATURES,
    ConfigLimits,
    ConfigSchema,
    FieldRule,
    ValueType,
)
from controlplane.domain.errors import FieldViolation, InvalidArgument, LimitExceeded

_EXACT_INTEGER = 2**53
"""Beyond it a double, and so a protobuf Struct, no longer carries every integer."""

MAX_VIOLATIONS = 100
"""Violations spelled out in one refusal: more than a person reads; an answer has to stay small."""

_NO_VALUES: Mapping[str, Json] = {}


class _WrongValueError(ValueError):
    """One thing wrong with one value."""


def _number(value: Json) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _WrongValueError(f"must be a number, not {_kind(value)}")
    if not math.isfinite(value):
        raise _WrongValueError("must be a finite number")
    return value


def _kind(value: Json) -> str:
    """Name a value's type the way JSON does."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "an object" if isinstance(value, Mapping) else "a list"


def _in_range(number: float, rule: FieldRule) -> None:
    low = rule.minimum if rule.above is None else rule.above
    too_low = low is not None and (number < low or (rule.above is not None and number == low))
    too_high = rule.maximum is not None and number > rule.maximum
    if not (too_low or too_high):
        return
    wanted = []
    if low is not None:
        wanted.append(f"{'more than' if rule.above is not None else 'at least'} {low:,}")
    if rule.maximum is not None:
        wanted.append(f"at most {rule.maximum:,}")
    raise _WrongValueError(f"must be {' and '.join(wanted)}, not {number!r}")


def _as_number(value: Json, rule: FieldRule, _limits: ConfigLimits) -> Json:
    number = _number(value)
    _in_range(number, rule)
    return float(number)


def _as_integer(value: Json, rule: FieldRule, _limits: ConfigLimits) -> Json:
    number = _number(value)
    if number != int(number):
        raise _WrongValueError(f"must be a whole number, not {number!r}")
    _in_range(number, rule)
    return int(number)


def _as_text(value: Json, _rule: FieldRule, limits: ConfigLimits) -> Json:
    if not isinstance(value, str):
        raise _WrongValueError(f"must be text, not {_kind(value)}")
    return _name(value, limits)


def _name(text: str, limits: ConfigLimits) -> str:
    if not text:
        raise _WrongValueError("must not be empty")
    if text != text.strip() or not text.isprintable():
        # A trailing blank in blocked_tools would block nothing.
        raise _WrongValueError("must not begin or end with a blank, nor hold control characters")
    if len(text.encode()) > limits.name_bytes:
        raise _WrongValueError(f"must be at most {limits.name_bytes} bytes")
    return text


def _entries(value: Json, check: Callable[[str], str]) -> Json:
    """Return the entries as a sorted list of unique texts; a list setting is a set."""
    if not isinstance(value, list | tuple):
        raise _WrongValueError(f"must be a list, not {_kind(value)}")
    result = set()
    for position, item in enumerate(value):
        if not isinstance(item, str):
            raise _WrongValueError(f"entry {position} must be text, not {_kind(item)}")
        try:
            result.add(check(item))
        except ValueError as error:
            raise _WrongValueError(f"entry {position} {error}") from None
    return sorted(result)


def _as_names(value: Json, _rule: FieldRule, limits: ConfigLimits) -> Json:
    return _entries(value, lambda item: _name(item, limits))


def _as_domains(value: Json, _rule: FieldRule, limits: ConfigLimits) -> Json:
    return _entries(value, lambda item: domains.normalise(_name(item, limits)))


_CHECKS: Mapping[ValueType, Callable[[Json, FieldRule, ConfigLimits], Json]] = {
    ValueType.TEXT: _as_text,
    ValueType.NUMBER: _as_number,
    ValueType.INTEGER: _as_integer,
    ValueType.NAMES: _as_names,
    ValueType.DOMAINS: _as_domains,
}


def _free(value: Json) -> Json:
    """Return free JSON in its stored form: integral numbers as integers, lists as lists.

    Recursion is bounded: `_spread` has refused what is nested too deeply.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        number = _number(value)
        if isinstance(number, int) and abs(number) > _EXACT_INTEGER:
            raise _WrongValueError("is an integer beyond 2^53; write it as text")
        return int(number) if number == int(number) and abs(number) <= _EXACT_INTEGER else number
    if isinstance(value, str):
        value.encode()
        return value
    if isinstance(value, Mapping):
        return {_free_key(key): _free(item) for key, item in value.items()}
    return [_free(item) for item in value]


def _free_key(key: str) -> str:
    key.encode()
    return key


def _leaf(path: str, value: Json, schema: ConfigSchema, kind: LayerKind | None) -> Json:
    """Return the stored form of one leaf; _WrongValueError says what is wrong with it."""
    if value is None:
        raise _WrongValueError("null is not a value; unset the path instead")
    problem = path_problem(path, schema, _NO_VALUES)  # of a leaf that an object brought along
    if problem is not None:
        raise _WrongValueError(problem)
    rule = schema.fields.get(path)
    try:
        if rule is not None:
            return _CHECKS[rule.type](value, rule, schema.limits)
        if path in {FEATURES, EXTRA}:
            raise _WrongValueError("set at least one key below it, or unset it")
        if path.startswith(FEATURES + "."):
            if not isinstance(value, bool):
                raise _WrongValueError(f"must be true or false, not {_kind(value)}")
            if value and kind is LayerKind.EMERGENCY:
                raise _WrongValueError("an emergency layer can only switch features off")
            return value
        return _free(value)
    except UnicodeEncodeError:
        raise _WrongValueError("is not valid Unicode") from None
    except OverflowError:
        raise _WrongValueError("is out of range") from None


def _spread(
    path: str, value: Json, schema: ConfigSchema, held: Mapping[str, Json]
) -> Iterable[tuple[str, Json]]:
    """Return the leaves of what is set at `path`; a typed setting is one whatever it holds."""
    problem = path_problem(path, schema, held)
    if problem is not None:
        raise _WrongValueError(problem)
    if path in schema.fields:
        return ((path, value),)
    if path in {FEATURES, EXTRA} and not isinstance(value, Mapping):
        raise _WrongValueError(f"must be an object, not {_kind(value)}")
    if _depth(value) + path.count(".") > schema.limits.depth:
        raise _WrongValueError(f"is nested deeper than {schema.limits.depth} levels")
    dotted = _dotted_key(value)
    if dotted is not None:
        raise _WrongValueError(f"the key {shown(dotted)!r} holds a dot")
    return leaves(value, path)


def _dotted_key(value: Json) -> str | None:
    """Return a key that would be taken for a path, in the objects that become leaves."""
    if not isinstance(value, Mapping):
        return None
    found = (key if "." in key else _dotted_key(item) for key, item in value.items())
    return next((key for key in found if key is not None), None)


def _depth(value: Json) -> int:
    """Return the levels of objects and lists in `value`; no recursion into the unchecked."""
    levels, layer = 0, [value]
    while layer := [child for item in layer for child in _children(item)]:
        levels += 1
    return levels


def _children(value: Json) -> Iterable[Json]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def check_values(
    values: Mapping[str, Json],
    *,
    schema: ConfigSchema = BASE_SCHEMA,
    held: Mapping[str, Json] = _NO_VALUES,
    kind: LayerKind | None = None,
    prefix: str = "set",
) -> tuple[dict[str, Json], list[FieldViolation]]:
    """Return the leaves to store for `values`, and everything wrong with them.

    `held` are the values the layer has now (only for suggestions), `kind` the layer they are for
    (an emergency layer accepts less). Violations name `<prefix>.<path>`.
    """
    stored: dict[str, Json] = {}
    wrong: list[FieldViolation] = []
    for path, value in values.items():
        try:
            near = held if len(wrong) < MAX_VIOLATIONS else _NO_VALUES
            spread = _spread(path, value, schema, near)
        except _WrongValueError as error:
            wrong.append(FieldViolation(f"{prefix}.{shown(path)}", str(error)))
            continue
        for leaf_path, leaf in spread:
            try:
                stored[leaf_path] = _leaf(leaf_path, leaf, schema, kind)
            except _WrongValueError as error:
                wrong.append(FieldViolation(f"{prefix}.{shown(leaf_path)}", str(error)))
    wrong.extend(_overlaps(values, prefix))
    return stored, wrong


def _overlaps(values: Mapping[str, Json], prefix: str) -> Iterable[FieldViolation]:
    """Report paths given together with one of their parents: which of the two counts is a guess."""
    for path in values:
        parent = path
        while parent := parent.rpartition(".")[0]:
            if parent in values:
                yield FieldViolation(
                    f"{prefix}.{shown(path)}", f"is set together with its parent {shown(parent)}"
                )


def extra_violations(
    flat: Mapping[str, Json], schema: ConfigSchema, *, sparse: bool, prefix: str = "set"
) -> list[FieldViolation]:
    """Return what the namespace's own check of `extra`, if it has one, says about `flat`."""
    if schema.extra is None:
        return []
    start = EXTRA + "."
    document = nested({p.removeprefix(start): v for p, v in flat.items() if p.startswith(start)})
    at = f"{prefix}.{EXTRA}" if prefix else EXTRA
    return [
        FieldViolation(f"{at}.{shown(path)}" if path else at, description)
        for path, description in schema.extra.violations(document, sparse=sparse)
    ]


def refuse_large(values: Mapping[str, Json], schema: ConfigSchema) -> None:
    """Refuse a layer that would be larger than the limit.

    Raises:
        LimitExceeded: it would; each value is fine by itself, so no field is wrong.
    """
    limit = schema.limits.layer_bytes
    if len(encoded(dict(values))) > limit:
        raise LimitExceeded("the size in bytes of one configuration layer", limit=limit)


def validate_values(
    values: Mapping[str, Json],
    *,
    schema: ConfigSchema = BASE_SCHEMA,
    kind: LayerKind | None = None,
    prefix: str = "set",
) -> dict[str, Json]:
    """Return the stored form of `values`: one entry per leaf, numbers and lists normalised.

    An object set at `features`, `extra` or below `extra` becomes its leaves. Raises
    InvalidArgument with every violation, each naming `<prefix>.<path>`, and LimitExceeded when
    they are too large together.
    """
    stored, wrong = check_values(values, schema=schema, kind=kind, prefix=prefix)
    if not wrong:
        refuse_large(stored, schema)
        wrong = extra_violations(stored, schema, sparse=True, prefix=prefix)
    refuse(wrong)
    return stored


def refuse(wrong: Sequence[FieldViolation]) -> None:
    """Raise InvalidArgument when anything is wrong; return otherwise."""
    if len(wrong) > MAX_VIOLATIONS:
        more = len(wrong) - MAX_VIOLATIONS
        wrong = [*wrong[:MAX_VIOLATIONS], FieldViolation("set", f"and {more:,} more violations")]
    if wrong:
        raise InvalidArgument(*wrong)
