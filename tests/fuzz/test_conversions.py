"""Every function that turns what came over the wire into values: a value, or a refusal."""

import contextlib
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

import controlplane.api.convert as package
from controlplane.api.convert.lifecycle import Target
from controlplane.domain.errors import DomainError
from controlplane.domain.experiments.model import Subject, SubjectKind
from controlplane.services.ports import RequestKey
from fleetplane.v1 import lifecycle_service_pb2
from tests.fakes.fuzzing import FUZZED, integers, messages, texts

# Functions that read requests, beside those that are named for it.
_READERS: Final = frozenset({
    "api_token_life_ms", "bounded_ms", "duration_to_ms", "join_token_life_ms", "place_of",
    "request_key", "required", "require_selector", "required_ids", "struct_to_json",
    "timestamp_to_ms",
})  # fmt: skip

# Parameters that callers choose, not requests.
_OURS: Final[Mapping[str, Any]] = {
    "field": st.just("field"),
    "least": st.just(0),
    "most": st.just(1000),
    "said": st.just("0-1000 ms"),
    "within": st.sampled_from([0, 100_000]),
    "max_bytes": st.just(10),
}

_STAND_INS: Final[Mapping[Any, st.SearchStrategy[Any]]] = {
    Message: messages(lifecycle_service_pb2.ActivateRequest.DESCRIPTOR),
    Target: messages(lifecycle_service_pb2.DrainRequest.DESCRIPTOR),
    RequestKey: st.none(),
    Subject: st.builds(Subject, kind=st.sampled_from(SubjectKind), name=texts),
    types.NoneType: st.none(),
    str: texts,
    int: integers,
    bool: st.booleans(),
}


def readers() -> dict[str, Callable[..., Any]]:
    """Every reader of the package by its full name."""
    found: dict[str, Callable[..., Any]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            own = function.__module__ == module.__name__ and not name.startswith("_")
            if own and (name.endswith("_from_proto") or name in _READERS):
                found[f"{info.name}.{name}"] = function
    return found


def arguments(function: Callable[..., Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return keyword arguments of a reader, by what it says that it takes."""
    hints = typing.get_type_hints(inspect.unwrap(function))
    chosen = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            chosen["agent_id"] = texts
        elif name in _OURS:
            chosen[name] = _OURS[name]
        else:
            chosen[name] = _values(hints[name])
    return st.fixed_dictionaries(chosen)


def _values(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of a type as it is written in a signature."""
    if kind in _STAND_INS:
        return _STAND_INS[kind]
    if isinstance(kind, type) and issubclass(kind, Message):
        return messages(kind.DESCRIPTOR)
    if getattr(kind, "__supertype__", None) is int:  # the values of an enum
        return st.integers(-(2**31), 2**31 - 1)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    assert inner, f"how to make up {kind}?"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return st.lists(_values(inner[0]), max_size=4)
    return st.one_of(*map(_values, inner))


_ALL: Final = readers()


@pytest.mark.parametrize("name", sorted(_ALL))
@FUZZED
@given(data=st.data())
def test_a_reader_returns_a_value_or_refuses(name: str, data: st.DataObject) -> None:
    function = _ALL[name]
    chosen = data.draw(arguments(function))
    with contextlib.suppress(DomainError):
        value = function(**chosen)
        if isinstance(value, Sequence) and not isinstance(value, str):
            # Entries of a batch are refused one by one.
            assert not any(
                isinstance(one, Exception) and not isinstance(one, DomainError) for one in value
            )


def test_there_is_a_reader_for_every_kind_of_request() -> None:
    assert len(_ALL) >= len(_READERS) + 25
    assert {name.partition(".")[2] for name in _ALL} >= _READERS
