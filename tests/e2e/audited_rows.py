"""Every call that changes something, once, and how many entries of the audit it must leave.

A row is one call, in the order of a story that makes all of them possible. A new RPC that changes
something gets a row here, or in the module of its area (`ROWS` of `audited_governance.py`):

    Row("RoutingService/SetRoute", lambda w: {"agentName": "reader", "shares": [...]})

It is called by an administrator in a namespace of its own, and must leave one entry per object that
it changes: `entries` in the namespace, `system` where rights, credentials and namespaces are kept.
`Step` prepares or waits; what it does is not counted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

NAMESPACE: Final = "audited"
PATIENCE: Final = 15.0
"""Seconds until what the plane does by itself must have happened."""


@dataclass(kw_only=True)
class World:
    """What earlier calls have answered; the rows write what they need into `seen`."""

    call: Callable[..., Any]
    """`call("Service/Method", {..}, who="admin")` -> the answer, or the first one of a stream."""
    certificate_request: str
    seen: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.seen[name]


Request = Callable[[World], dict[str, Any]]


def _forget(_world: World, _answer: Any) -> None:
    """Need nothing of an answer."""


@dataclass(frozen=True)
class Row:
    """One call, and what it must leave."""

    method: str
    request: Request
    entries: int = 1
    system: int = 0
    keep: Callable[[World, Any], None] = _forget
    who: str = "admin"
    says: str = ""
    """What the entries call the method, if not by its name."""
    why: str = ""
    """Why it leaves another number of entries than one."""


@dataclass(frozen=True)
class Step:
    """What happens between the calls."""

    do: Callable[[World], None]


def until(condition: Callable[[], bool]) -> None:
    """Wait until the plane has done something."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def agent_of(world: World, agent_id: str) -> Any:
    return world.call("RegistryService/GetAgent", {"agentId": agent_id}).agent
