"""The shared decision corpus as values: what a decision point is given and what it must answer.

Every decision point runs it: the bare engine, the unary call, the batch call and the SDK.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

CORPUS: Final = Path(__file__).with_name("cases.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    effect: str
    reason: str
    determining: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    observations: Mapping[str, str] = field(default_factory=dict)
    indeterminate: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    agent_id: str
    action: str
    tool: str
    context: Mapping[str, Any]
    expected: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    name: str
    default_effect: str
    policies: tuple[Mapping[str, Any], ...]
    agents: Mapping[str, Mapping[str, Any]]
    cases: tuple[Case, ...]


def groups() -> Iterator[Group]:
    for group in json.loads(CORPUS.read_text(encoding="utf-8"))["groups"]:
        yield Group(
            name=group["name"],
            default_effect=group.get("default_effect", "ALLOW"),
            policies=tuple(group["policies"]),
            agents=group["agents"],
            cases=tuple(map(_case, group["cases"])),
        )


def facts(agent: Mapping[str, Any]) -> dict[str, Any]:
    """What the control plane knows about an agent of the corpus."""
    return {
        "agent_name": agent["name"],
        "agent_version": agent["version"],
        "agent_status": "ACTIVE",
        "agent_tags": agent["tags"],
        "agent_capabilities": agent.get("capabilities", []),
        "agent_tools": agent.get("tools", []),
        "namespace": "default",
    }


def _case(case: Mapping[str, Any]) -> Case:
    expect = case["expect"]
    return Case(
        name=case["name"],
        agent_id=case["agent"],
        action=case["action"],
        tool=case.get("tool", ""),
        context=case["context"],
        expected=Expected(
            effect=expect["effect"],
            reason=expect["reason"],
            determining=tuple(expect.get("determining", ())),
            overridden=tuple(expect.get("overridden", ())),
            observations=expect.get("observations", {}),
            indeterminate=tuple(expect.get("indeterminate", ())),
        ),
    )
