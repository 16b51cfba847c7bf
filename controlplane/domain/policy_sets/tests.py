"""Tests of policies: questions with the answers they must have, kept with the policies. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.policies import (
    Decision,
    Effect,
    PolicySet,
    Request,
    is_identifier,
    validate_claims,
)

MAX_TESTS: Final = 200
"""Tests of one set: a few milliseconds at activation."""

MAX_NAME_BYTES: Final = 256
"""Of the name of a test."""

MAX_TEST_BYTES: Final = 16 * 1024
"""Bytes of one test's context: an example, not a recording."""

NO_AGENT: Final = "agt-test"
"""Id of an agent that a test only describes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestAgent:
    """An agent as a test describes it; it need not be registered."""

    __test__ = False  # a value of the product, whatever its name says to a test runner

    name: str = ""
    version: str = ""
    owner: str = ""
    model: str = ""
    status: str = "ACTIVE"
    tags: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()

    def facts(self, namespace: str) -> dict[str, Any]:
        """Return what policies know about it."""
        return {
            "namespace": namespace,
            "agent_id": NO_AGENT,
            "agent_name": self.name,
            "agent_version": self.version,
            "agent_owner": self.owner,
            "agent_model": self.model,
            "agent_status": self.status,
            "agent_tags": dict(self.tags),
            "agent_capabilities": list(self.capabilities),
            "agent_tools": list(self.tools),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTest:
    """One question and what must be answered."""

    name: str
    """Unique within the set, 1-256 bytes."""
    action: str
    effect: Effect
    """The answer that is expected."""
    agent_id: str = ""
    """A registered agent, on its facts of today; empty: `agent`."""
    agent: TestAgent = TestAgent()
    tool: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    now_ms: int | None = None
    """Time of the decision; None: when the test runs."""
    determining: tuple[str, ...] | None = None
    """Policies that must determine it, in any order; None: whichever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTests:
    """The tests of the live set, as they are stored."""

    tests: tuple[PolicyTest, ...] = ()
    revision: int = 0
    updated_at_ms: int = 0
    updated_by: str = ""


FactsOf = Callable[[str], Mapping[str, Any] | None]
"""Facts of a registered agent by its id; None: there is no such agent."""


def failures(
    rules: PolicySet,
    tests: Iterable[PolicyTest],
    *,
    namespace: str,
    facts_of: FactsOf,
    now_ms: int,
) -> dict[str, str]:
    """Run tests; return the name of each that fails, and why, in their order."""
    failed: dict[str, str] = {}
    for test in tests:
        facts = facts_of(test.agent_id) if test.agent_id else test.agent.facts(namespace)
        if facts is None:
            failed[test.name] = f"agent {test.agent_id} is not registered"
            continue
        decision = rules.evaluate(
            Request(
                agent_id=test.agent_id or NO_AGENT,
                action=test.action,
                facts=facts,
                claims=test.context,
                now_ms=now_ms if test.now_ms is None else test.now_ms,
                tool=test.tool,
            )
        )
        why = _wrong(test, decision)
        if why:
            failed[test.name] = why
    return failed


def _wrong(test: PolicyTest, decision: Decision) -> str:
    if decision.effect is not test.effect:
        return f"expected {test.effect}, got {decision.message}"
    expected = test.determining
    if expected is not None and sorted(expected) != sorted(decision.determining):
        got = ", ".join(decision.determining) or "no policy"
        return f"expected to be determined by {', '.join(expected) or 'no policy'}, was by {got}"
    return ""


def require_valid_tests(tests: Sequence[PolicyTest], field_name: str = "tests") -> None:
    """Refuse tests that cannot be run, naming fields as `tests[i].<path>`.

    Raises:
        InvalidArgument: with every violation.
    """
    if len(tests) > MAX_TESTS:
        raise InvalidArgument.of(field_name, f"are more than {MAX_TESTS}")
    wrong: list[FieldViolation] = []
    names: set[str] = set()
    for position, test in enumerate(tests):
        here = f"{field_name}[{position}]"
        wrong += [FieldViolation(f"{here}.{where}", why) for where, why in _violations(test)]
        if test.name in names:
            wrong.append(FieldViolation(f"{here}.name", "is there twice"))
        names.add(test.name)
        try:
            validate_claims(test.context, field=f"{here}.context")
        except InvalidArgument as error:
            wrong += error.violations
    if wrong:
        raise InvalidArgument(*wrong)


def _violations(test: PolicyTest) -> Iterator[tuple[str, str]]:
    if not 0 < len(test.name.encode(errors="replace")) <= MAX_NAME_BYTES:
        yield "name", f"must be 1-{MAX_NAME_BYTES} bytes"
    if not is_identifier(test.action):
        yield "action", "must be 1-256 characters of [A-Za-z0-9._:/-]"
    if test.tool and not is_identifier(test.tool):
        yield "tool", "must be at most 256 characters of [A-Za-z0-9._:/-]"
    if test.agent_id and test.agent != TestAgent():
        yield "agent", "and agent_id exclude one another"
