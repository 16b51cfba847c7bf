"""Requests that must be refused, one row each: what a row is, and what rows are made from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

NOWHERE: Final = "nobody-has-this-id"


@dataclass(frozen=True, kw_only=True)
class World:
    """What the rows refer to: at least two of everything that is listed."""

    namespace: str
    agent_id: str
    """reader@1.0.0, with the instance `box-1`."""
    agent_revision: int
    old_generation: int
    """Of `box-1`, fenced by `generation`."""
    generation: int
    policy_revision: int
    """Of the policy `p-1`."""
    layer_revision: int
    """Of the namespace's layer, which has an older one."""
    task_id: str
    """A task that waits for an agent nobody has registered."""
    rollout_id: str
    """Of `roller`, paused."""
    tokens: dict[str, str]
    """By method: a token of its second page. `elsewhere`: of ListAgents in another namespace."""


Make = Callable[[World], Message | bytes]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A request and its refusal."""

    method: str
    what: str
    request: Make
    """A message, or raw bytes."""
    code: str
    reason: str
    names: str = ""
    """What `BadRequest` names first, or a prefix of it that ends with `*`."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method}: {self.what}"


def wrong(method: str, what: str, named: str, request: Make, reason: str = "INVALID_FIELD") -> Row:
    """A row for INVALID_ARGUMENT, which always names a field."""
    return Row(
        method=method,
        what=what,
        request=request,
        code="INVALID_ARGUMENT",
        reason=reason,
        names=named,
    )


def refused(method: str, what: str, code: str, reason: str, request: Make, **metadata: str) -> Row:
    """A row for a request that is well formed, and still refused."""
    return Row(
        method=method, what=what, request=request, code=code, reason=reason, metadata=metadata
    )


def struct(**values: Any) -> Struct:
    return ParseDict(values, Struct())


def nan(name: str) -> Struct:
    return Struct(fields={name: Value(number_value=math.nan)})


def deep(levels: int = 40) -> Struct:
    """Return lists within lists: an object so deep would not pass protobuf's own parser."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return ParseDict({"deep": value}, Struct())


def plain(value: Struct) -> dict[str, Any]:
    return MessageToDict(value)
