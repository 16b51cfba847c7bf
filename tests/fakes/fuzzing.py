"""What attackers send: texts, JSON and messages of every shape, and how many of them are tried.

FUZZ_EXAMPLES is the number of examples per target. Without it a target gets a few, always the same,
so that `make test` is quick and says the same twice; with it (`make fuzz`) they are others each
time, and what failed once is kept under .hypothesis and tried again first.
"""

import os
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

BRIEF_EXAMPLES: Final = 50

_AT_LENGTH: Final = os.environ.get("FUZZ_EXAMPLES", "")

_EXAMPLE_MS: Final = 10_000
"""Longest time for one example: so much more than it takes that only what blows up fails."""

_DATABASE: Final = ".hypothesis/examples"


def fuzz_settings(share: float = 1.0) -> settings:
    """Return how long a target is tried: `share` of the usual number of examples."""
    return settings(
        max_examples=max(1, round(int(_AT_LENGTH or BRIEF_EXAMPLES) * share)),
        derandomize=not _AT_LENGTH,
        database=DirectoryBasedExampleDatabase(_DATABASE) if _AT_LENGTH else None,
        deadline=_EXAMPLE_MS,
        # Large examples are the point, and what they cost is bounded above.
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
            HealthCheck.function_scoped_fixture,
        ],
    )


FUZZED: Final = fuzz_settings()
"""Decorates a target."""

# Words that get past the first check of some field, so that the second is reached.
_WORDS: Final = (
    "default", "@system", "*", "**", "a", "worker", "worker-*", "1.0.0", ">=1.0.0 <2", "1.x",
    "agt-0192f0c1", "at-0192f0c1", "jt-0", "user:ann", "group:x", "token:at-1", "viewer", "admin",
    "spiffe://fleet.local/ns/default/agent/worker", "spiffe://a/**", "spiffe://a/*/b", "spiffe://",
    "spec.tags", "extra.a.b", "conditions", "temperature", "db:*:write", "(a+)+$", "%00", "../..",
    "A" * 129, "x" * 1025, "\0", "\n", "\u202e", "é", "e\u0301", "\U0001d518", "\ufeff", " ", ".",
    "a.b", "{namespace}", "{agent_name}", "fp:{x}:rev", "}", "https://h/x", "h:1", "1e999", "-0",
    "NaN",
)  # fmt: skip

texts: Final = st.one_of(
    st.just(""), st.sampled_from(_WORDS), st.text(max_size=40), st.text("ab*./:-{}@ ", max_size=60)
)

integers: Final = st.one_of(
    st.integers(-3, 3), st.integers(), st.sampled_from([2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**64])
)

numbers: Final = st.one_of(
    st.floats(), st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0, 1e308, -1e308, 5e-324, 2.0**53, 1e-9])
)

json_values: Final = st.recursive(
    st.one_of(st.none(), st.booleans(), integers, numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)

_DEPTH: Final = 5
"""Levels of messages within messages; those that hold themselves end there."""

_Draw = Callable[[st.SearchStrategy[Any]], Any]

_RANGES: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


def messages(descriptor: Any) -> st.SearchStrategy[Any]:  # of two kinds, by implementation
    """Return messages with any of their fields set to anything that the wire can carry."""
    return st.composite(lambda draw: _message(draw, descriptor, _DEPTH))()


def _message(draw: _Draw, descriptor: Descriptor, depth: int) -> Message:
    made = GetMessageClass(descriptor)()
    fields = [f for f in descriptor.fields if f.message_type is None or depth]
    if not fields:
        return made
    for field in draw(st.lists(st.sampled_from(fields), unique_by=lambda f: f.name, max_size=12)):
        _fill(draw, made, field, depth - 1)
    return made


def _fill(draw: _Draw, made: Message, field: FieldDescriptor, depth: int) -> None:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        _fill_map(draw, getattr(made, field.name), inner, depth)
    elif field.is_repeated:
        for _ in range(draw(st.integers(1, 3))):
            values = getattr(made, field.name)
            if field.message_type is None:
                values.append(draw(_scalars(field)))
            else:
                values.add().CopyFrom(_message(draw, field.message_type, depth))
    elif field.message_type is None:
        setattr(made, field.name, draw(_scalars(field)))
    else:
        getattr(made, field.name).CopyFrom(_message(draw, field.message_type, depth))


def _fill_map(draw: _Draw, entries: Any, entry: Descriptor, depth: int) -> None:
    keys, values = (entry.fields_by_name[name] for name in ("key", "value"))
    for key in draw(st.lists(_scalars(keys), max_size=3)):
        if values.message_type is None:
            entries[key] = draw(_scalars(values))
        else:
            entries[key].CopyFrom(_message(draw, values.message_type, depth))


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return st.binary(max_size=40) if field.type == FieldDescriptor.TYPE_BYTES else texts
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return numbers
        case FieldDescriptor.CPPTYPE_FLOAT:
            return st.floats(width=32)
    least, most = _RANGES[field.cpp_type]
    small = st.integers(max(least, -1), 8)
    return st.one_of(small, st.integers(least, most), st.sampled_from([least, most]))
