"""`fleetplane policies test`: what policies must answer, checked before they are applied.

    policies: reference.yaml           # or a list of files and directories, or policies themselves
    default: ALLOW                     # where nothing matches; ALLOW unless given
    agents:                            # what the registry would know; by id
      crawler: {name: crawler, tags: {scope: internal}}
    cases:
      - name: internal agents stay inside
        agent: crawler
        action: external_api_call
        context: {domain: example.com}
        expect: DENY                   # or {action: DENY, decided_by: [no-external-comms]}

Paths are relative to the file of cases. Cases run on the daemon's own engine in this process.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from controlplane.cli.arguments import check_numbers, read_document
from controlplane.cli.outcomes import WrongInput
from controlplane.cli.policy_files import PolicyDocument, parse_policies, policies_at
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.policies import (
    Decision,
    Effect,
    PolicySet,
    Request,
    compile_policies,
    is_identifier,
    validate_claims,
)
from fleetplane import Evaluation, FleetClient, FleetError, PolicyAction
from fleetplane.v1 import policy_service_pb2

BATCH = 256
"""Questions in one call at most, by contract."""


class AgentFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the registry would know about an agent."""

    name: str = ""
    """Its id unless given."""
    version: str = "1.0.0"
    status: str = "ACTIVE"
    owner: str = ""
    model: str = ""
    namespace: str = "default"
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    capabilities: list[str] = msgspec.field(default_factory=list)
    tools: list[str] = msgspec.field(default_factory=list)


class Expected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a case must be answered with."""

    action: Effect
    decided_by: list[str] | None = None
    """Ids of the policies that must have decided, in any order; None: any."""


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question and its answer."""

    action: str
    expect: Expected
    """The right answer; a file may give the action alone."""
    name: str = ""
    agent: str = "agent"
    """Id of the agent: one of `agents`, and with --live a registered one."""
    tool: str = ""
    context: dict[str, Any] = msgspec.field(default_factory=dict)
    now: datetime | None = None
    """The time of the decision; the present unless given. Not with --live."""

    @property
    def title(self) -> str:
        """Its name, or what it asks."""
        return self.name or f"{self.agent} {self.action} {self.tool}".strip()


class Cases(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of cases."""

    cases: list[Case]
    policies: Any = None
    """A path, a list of paths, or policies."""
    default: Effect = Effect.ALLOW
    agents: dict[str, AgentFacts] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one case."""

    case: str
    """Its title."""
    expected: str
    """The effect that was expected, and who had to decide."""
    answered: str
    """The effect that was answered, and who decided; or why there is no answer."""
    passed: bool
    """Whether they agree."""


def cases_in(path: Path) -> Cases:
    """Read a file of cases.

    Raises:
        WrongInput: the file, or a field in it, is wrong; the message has its path.
    """
    document = read_document(path)
    try:
        cases = msgspec.convert(_effects_tagged(document), Cases)
    except msgspec.ValidationError as error:
        raise WrongInput(f"{path}: {error}".replace("`$.", "`")) from error
    if not cases.cases:
        raise WrongInput(f"{path}: holds no case")
    for case in cases.cases:
        check_numbers(case.context, f"{path}: {case.title}: context")
    return cases


def _effects_tagged(document: Any) -> Any:
    """Write `expect: DENY` as the object it abbreviates."""
    if not isinstance(document, dict) or not isinstance(document.get("cases"), list):
        return document
    cases = [
        {**one, "expect": {"action": one["expect"]}}
        if isinstance(one, dict) and isinstance(one.get("expect"), str)
        else one
        for one in document["cases"]
    ]
    return {**document, "cases": cases}


def policies_of(cases: Cases, path: Path) -> list[PolicyDocument]:
    """Return the policies that a file of cases is about.

    Raises:
        WrongInput: there are none, or one is wrong.
    """
    match cases.policies:
        case None:
            raise WrongInput(f"{path}: `policies` must name a file, or hold policies")
        case str():
            return policies_at(path.parent / cases.policies)
        case [str(), *_] as paths if all(isinstance(one, str) for one in paths):
            return [policy for one in paths for policy in policies_at(path.parent / one)]
        case inline:
            return parse_policies(inline, str(path))


def run_here(cases: Cases, policies: Sequence[PolicyDocument]) -> list[Verdict]:
    """Run the cases in this process.

    Raises:
        InvalidArgument: a policy is not valid, or an id is there twice.
    """
    rules = compile_policies(
        (one.to_policy() for one in policies), revision=0, default_effect=cases.default
    )
    now_ms = time.time_ns() // 1_000_000
    return [_decide(case, cases, rules, now_ms) for case in cases.cases]


def _decide(case: Case, cases: Cases, rules: PolicySet, now_ms: int) -> Verdict:
    wrong = [
        f"{field} {text!r} must be 1-256 characters of [A-Za-z0-9._:/-]"
        for field, text in (("action", case.action), ("tool", case.tool))
        if (text or field == "action") and not is_identifier(text)
    ]
    try:
        claims = validate_claims(case.context)
    except InvalidArgument as error:
        wrong.append(error.message)
    if wrong:
        return _verdict(case, "; ".join(wrong), None, ())
    moment = now_ms if case.now is None else round(case.now.timestamp() * 1000)
    facts = _facts(case.agent, cases.agents.get(case.agent, AgentFacts()))
    decision: Decision = rules.evaluate(
        Request(
            agent_id=case.agent,
            action=case.action,
            tool=case.tool,
            facts=facts,
            claims=claims,
            now_ms=moment,
        )
    )
    return _verdict(case, decision.message, decision.effect, decision.determining)


def _facts(agent_id: str, agent: AgentFacts) -> dict[str, Any]:
    """Return the facts as the daemon makes them of a record."""
    return {
        "namespace": agent.namespace,
        "agent_id": agent_id,
        "agent_name": agent.name or agent_id,
        "agent_version": agent.version,
        "agent_owner": agent.owner,
        "agent_model": agent.model,
        "agent_status": agent.status,
        "agent_tags": agent.tags,
        "agent_capabilities": agent.capabilities,
        "agent_tools": agent.tools,
    }


async def run_live(client: FleetClient, cases: Cases) -> list[Verdict]:
    """Ask the daemon instead: its policies, its registry, its clock."""
    answers: list[policy_service_pb2.PolicyDecision | FleetError] = []
    for start in range(0, len(cases.cases), BATCH):
        answers += await client.batch_evaluate_policy(
            [
                Evaluation(
                    agent_id=one.agent, action=one.action, tool=one.tool, context=one.context
                )
                for one in cases.cases[start : start + BATCH]
            ]
        )
    verdicts = []
    for case, answer in zip(cases.cases, answers, strict=True):
        if isinstance(answer, FleetError):
            verdicts.append(_verdict(case, answer.message, None, ()))
        else:
            effect = Effect[PolicyAction(answer.action).name]
            decided = answer.determining_policies
            verdicts.append(_verdict(case, answer.message, effect, decided))
    return verdicts


def _verdict(case: Case, message: str, effect: Effect | None, decided: Sequence[str]) -> Verdict:
    expected = case.expect
    agrees = expected.decided_by is None or sorted(expected.decided_by) == sorted(decided)
    return Verdict(
        case=case.title,
        expected=_said(expected.action, expected.decided_by or ()),
        answered=f"error: {message}" if effect is None else _said(effect, decided),
        passed=effect is expected.action and agrees,
    )


def _said(effect: Effect, decided: Sequence[str]) -> str:
    return f"{effect} by {', '.join(sorted(decided))}" if decided else str(effect)
