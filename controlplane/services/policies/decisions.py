"""Decisions: what the policies of a namespace say about an action, on facts from the registry."""

import os
from collections.abc import Awaitable, Mapping, Sequence
from itertools import count
from time import perf_counter_ns
from typing import Any, Final, NamedTuple

from controlplane.domain.agents import Agent
from controlplane.domain.errors import AgentNotFound, DomainError, FieldViolation, InvalidArgument
from controlplane.domain.policies import (
    Effect,
    ExplainLevel,
    PolicySet,
    Request,
    is_identifier,
    validate_claims,
)
from controlplane.services.policies.answers import Answered, Question
from controlplane.services.policies.recorder import Recorder
from controlplane.services.policies.settings import settings_of
from controlplane.services.policies.staging import rules_for
from controlplane.services.ports import Clock
from controlplane.services.read_model import NamespaceView, ReadModel

__all__ = [
    "Answered",
    "AnsweredMany",
    "Asked",
    "DecisionIds",
    "Decisions",
    "Question",
    "facts_of",
    "is_permitted",
]

KEPT_FACTS: Final = 200_000
"""Agents whose facts are kept, about 1 KiB each, removed ones included; beyond, keeping begins
anew. Twice the largest fleet that is measured."""

KEPT_NAMES: Final = 16_384
"""Names of actions and tools that are not looked at again; callers may invent any number."""


class DecisionIds:
    """Unique ids that cost next to nothing and sort by time: when, who decided, which one.

    `dec-<milliseconds on the store's clock, 12 hex digits>-<random per process, 8>-<count, 8>`.
    The time in it is where the log of decisions looks for the record.
    """

    def __init__(self) -> None:
        self.source = os.urandom(4).hex()
        """Names this process in its ids."""
        self._next = count(1).__next__
        self._at_ms = -1
        self._head = ""

    def new(self, at_ms: int) -> str:
        """Return the next id, of a decision made at that time."""
        if at_ms != self._at_ms:  # many are made in one millisecond, and in one call
            self._at_ms, self._head = at_ms, f"dec-{at_ms:012x}-{self.source}-"
        return f"{self._head}{self._next():08x}"


class AnsweredMany(NamedTuple):
    """The decisions of a batch, all on one revision; each item decided, or refused by itself."""

    revision: int
    answers: list[Answered | DomainError]
    recorded: Awaitable[None] | None = None
    """To be awaited before any of them leaves."""


class Asked(NamedTuple):
    """Who asks, and how."""

    caller: str = ""
    request_bytes: int = 0
    """Of the whole call on the wire: about what its claims hold."""
    dry_run: bool = False
    """Record nothing."""


_NOBODY: Final = Asked()


class _Known(NamedTuple):
    """What holds for an agent during one call."""

    facts: Mapping[str, Any]
    rules: PolicySet


class Decisions:
    """Decides in memory; a decision never waits for anything, its record may.

    What is `recorded` of an answer has to be awaited before it leaves, unless it is None: room in
    the queue of the log, or the record itself, which fails with StoreUnavailable.
    """

    def __init__(
        self,
        read_model: ReadModel,
        clock: Clock,
        *,
        recorder: Recorder | None = None,
        ids: DecisionIds | None = None,
    ) -> None:
        """Decide on what `read_model` knows; without a `recorder` nothing is recorded."""
        self._read_model = read_model
        self._clock = clock
        self._recorder = recorder
        self._ids = ids or DecisionIds()
        self._facts: dict[tuple[str, str], tuple[Agent, Mapping[str, Any]]] = {}
        self._names: set[str] = set()
        """Actions and tools that are known to be well-formed."""

    def evaluate(
        self,
        namespace: str,
        question: Question,
        *,
        explain: ExplainLevel = ExplainLevel.NONE,
        asked: Asked = _NOBODY,
    ) -> Answered:
        """Decide one action, on the newest policies this replica has.

        Raises:
            AgentNotFound: facts about nobody would be claims.
            InvalidArgument: a malformed action, tool or context.
        """
        began = perf_counter_ns()
        view = self._read_model.view(namespace)
        answer = self._decide(view, question, explain, self._clock.store_ms(), {})
        recorded = self._record(view, (answer,), asked, perf_counter_ns() - began)
        return answer if recorded is None else answer._replace(recorded=recorded)

    def evaluate_many(
        self,
        namespace: str,
        questions: Sequence[Question | DomainError],
        *,
        explain: ExplainLevel = ExplainLevel.NONE,
        stop_at_permitted: bool | None = None,
        asked: Asked = _NOBODY,
    ) -> AnsweredMany:
        """Decide many actions on one revision and one clock reading; each fails for itself.

        `stop_at_permitted`: stop after the first item that is permitted (True) or that is not
        (False); None decides all. Questions that are refusals already are passed on.
        """
        began = perf_counter_ns()
        view = self._read_model.view(namespace)
        now_ms = self._clock.store_ms()
        answers: list[Answered | DomainError] = []
        decided: list[Answered] = []
        known: dict[str, _Known] = {}
        decide = self._decide
        for question in questions:
            if isinstance(question, DomainError):
                answers.append(question)
                continue
            try:
                answer = decide(view, question, explain, now_ms, known)
            except DomainError as refusal:
                answers.append(refusal)
                continue
            answers.append(answer)
            decided.append(answer)
            if stop_at_permitted is not None and stop_at_permitted == is_permitted(answer):
                break
        recorded = None
        if decided:
            latency_ns = (perf_counter_ns() - began) // len(decided)
            recorded = self._record(view, decided, asked, latency_ns)
        return AnsweredMany(view.policy_set.revision, answers, recorded)

    def _record(
        self, view: NamespaceView, answers: Sequence[Answered], asked: Asked, latency_ns: int
    ) -> Awaitable[None] | None:
        if self._recorder is None or asked.dry_run:
            return None
        return self._recorder.record(
            view.name,
            settings_of(view).decision_log,
            answers,
            caller=asked.caller,
            latency_ns=latency_ns,
            request_bytes=asked.request_bytes,
        )

    def _decide(
        self,
        view: NamespaceView,
        question: Question,
        explain: ExplainLevel,
        now_ms: int,
        known: dict[str, _Known],
    ) -> Answered:
        """Decide one action; `known` are the agents of the same call."""
        agent_id, action, claims, tool, session_id, is_checked = question
        names = self._names
        if action not in names or (tool and tool not in names):
            self._learn(question)
        agent = known.get(agent_id)
        if agent is None:
            agent = known[agent_id] = self._known(view, agent_id)
        facts, rules = agent
        if claims and not is_checked:
            claims = validate_claims(claims)
        request = Request(
            agent_id=agent_id, action=action, facts=facts, claims=claims, now_ms=now_ms, tool=tool
        )
        decision = rules.evaluate(request, explain=explain)
        return Answered(decision, self._ids.new(now_ms), request, rules, session_id)

    def _learn(self, question: Question) -> None:
        """Remember the names of an action and its tool as well-formed.

        Raises:
            InvalidArgument: they are not.
        """
        action, tool = question.action, question.tool
        if not is_identifier(action) or (tool and not is_identifier(tool)):
            raise _malformed(question)
        if len(self._names) >= KEPT_NAMES:
            self._names.clear()
        self._names.update((action, tool) if tool else (action,))

    def _known(self, view: NamespaceView, agent_id: str) -> _Known:
        entry = view.agents.get(agent_id)
        if entry is None:
            raise AgentNotFound(agent_id)
        return _Known(self._facts_of(view.name, entry.agent), rules_for(view, agent_id))

    def _facts_of(self, namespace: str, agent: Agent) -> Mapping[str, Any]:
        key = (namespace, agent.agent_id)
        remembered = self._facts.get(key)
        if remembered is not None and remembered[0] is agent:
            return remembered[1]
        facts = facts_of(namespace, agent)
        if len(self._facts) >= KEPT_FACTS:
            self._facts.clear()
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
