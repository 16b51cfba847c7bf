"""Decisions: what the policies of a namespace say about an action, on facts from the registry."""

import os
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from controlplane.domain.agents import Agent
from controlplane.domain.errors import AgentNotFound, DomainError, FieldViolation, InvalidArgument
from controlplane.domain.policies import (
    Decision,
    Effect,
    ExplainLevel,
    PolicySet,
    Request,
    is_identifier,
    validate_claims,
)
from controlplane.services.ports import Clock
from controlplane.services.read_model import NamespaceView, ReadModel


class Question(NamedTuple):
    """One action that somebody wants to take."""

    agent_id: str
    action: str
    claims: Mapping[str, Any]
    tool: str = ""
    session_id: str = ""
    """The conversation or job it belongs to, for the record; policies do not see it."""


class Answered(NamedTuple):
    """A decision under its own id."""

    decision: Decision
    decision_id: str


class DecisionIds:
    """Unique ids that cost next to nothing and sort by time: when, who decided, which one.

    `dec-<milliseconds on the store's clock, 12 hex digits>-<random per process, 8>-<count, 8>`.
    The time in it is where the log of decisions looks for the record.
    """

    def __init__(self) -> None:
        self.source = os.urandom(4).hex()
        """Names this process in its ids."""
        self._next = count(1).__next__

    def new(self, at_ms: int) -> str:
        """Return the next id, of a decision made at that time."""
        return f"dec-{at_ms:012x}-{self.source}-{self._next():08x}"


class Decisions:
    """Decides in memory; a decision never waits for anything."""

    def __init__(self, read_model: ReadModel, clock: Clock) -> None:
        self._read_model = read_model
        self._clock = clock
        self._ids = DecisionIds()
        self._facts: dict[tuple[str, str], tuple[Agent, Mapping[str, Any]]] = {}

    def evaluate(
        self, namespace: str, question: Question, *, explain: ExplainLevel = ExplainLevel.NONE
    ) -> Answered:
        """Decide one action, on the newest policies this replica has.

        Raises:
            AgentNotFound: facts about nobody would be claims.
            InvalidArgument: a malformed action, tool or context.
        """
        view = self._read_model.view(namespace)
        return self._decide(view, view.policy_set, question, explain, self._clock.store_ms())

    def evaluate_many(
        self,
        namespace: str,
        questions: Sequence[Question | DomainError],
        *,
        explain: ExplainLevel = ExplainLevel.NONE,
        stop_at_permitted: bool | None = None,
    ) -> tuple[int, list[Answered | DomainError]]:
        """Decide many actions on one revision and one clock reading; each fails for itself.

        `stop_at_permitted`: stop after the first item that is permitted (True) or that is not
        (False); None decides all. Questions that are refusals already are passed on.
        """
        view = self._read_model.view(namespace)
        rules, now_ms = view.policy_set, self._clock.store_ms()
        answers: list[Answered | DomainError] = []
        for question in questions:
            if isinstance(question, DomainError):
                answers.append(question)
                continue
            try:
                answer = self._decide(view, rules, question, explain, now_ms)
            except DomainError as refusal:
                answers.append(refusal)
                continue
            answers.append(answer)
            if stop_at_permitted is not None and stop_at_permitted == is_permitted(answer):
                break
        return rules.revision, answers

    def _decide(
        self,
        view: NamespaceView,
        rules: PolicySet,
        question: Question,
        explain: ExplainLevel,
        now_ms: int,
    ) -> Answered:
        if not is_identifier(question.action) or (
            question.tool and not is_identifier(question.tool)
        ):
            raise _malformed(question)
        entry = view.agents.get(question.agent_id)
        if entry is None:
            raise AgentNotFound(question.agent_id)
        claims = question.claims
        request = Request(
            agent_id=question.agent_id,
            action=question.action,
            facts=self._facts_of(view.name, entry.agent),
            claims=validate_claims(claims) if claims else claims,
            now_ms=now_ms,
            tool=question.tool,
        )
        return Answered(rules.evaluate(request, explain=explain), self._ids.new(now_ms))

    def _facts_of(self, namespace: str, agent: Agent) -> Mapping[str, Any]:
        key = (namespace, agent.agent_id)
        remembered = self._facts.get(key)
        if remembered is not None and remembered[0] is agent:
            return remembered[1]
        facts = facts_of(namespace, agent)
        self._facts[key] = (agent, facts)
        return facts


def facts_of(namespace: str, agent: Agent) -> Mapping[str, Any]:
    """Return what policies may know about an agent, from its record and nothing else."""
    spec = agent.spec
    return {
        "namespace": namespace,
        "agent_id": agent.agent_id,
        "agent_name": spec.name,
        "agent_version": spec.version,
        "agent_owner": spec.owner,
        "agent_model": spec.model,
        "agent_status": str(agent.status),
        "agent_tags": dict(spec.tags),
        "agent_capabilities": list(spec.capabilities),
        "agent_tools": list(spec.tools),
    }


def is_permitted(answer: Answered) -> bool:
    """Return whether the action may go ahead now."""
    return answer.decision.effect in {Effect.ALLOW, Effect.LOG_ONLY}


def _malformed(question: Question) -> InvalidArgument:
    rule = "must be 1-256 characters of [A-Za-z0-9._:/-]"
    return InvalidArgument(
        *(
            FieldViolation(field, rule)
            for field, text in (("action", question.action), ("tool", question.tool))
            if (text or field == "action") and not is_identifier(text)
        )
    )
