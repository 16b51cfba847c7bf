"""One policy, compiled: what it may apply to, and a closure that judges a request."""

from copy import copy
from typing import Final

from fleetplane_policy.attributes import DEFAULT_DELIMITERS, AttributeSchema, Source
from fleetplane_policy.compiler import ConditionCompiler
from fleetplane_policy.digest import policy_digest
from fleetplane_policy.errors import FieldViolation
from fleetplane_policy.globs import Matcher, compile_globs, is_literal
from fleetplane_policy.grammar import parse
from fleetplane_policy.model import Effect, OnMissing, Policy, Request
from fleetplane_policy.nodes import All, Broken, Node, required_strings, without_pinned
from fleetplane_policy.truth import ERROR, FALSE, MISSING, NEGATED, TRUE, Condition
from fleetplane_policy.validation import envelope_violations, target_violations

NAMESPACE_LEVEL: Final = 0
"""Policies of the whole namespace."""

NAME_LEVEL: Final = 1
"""Policies of one agent name."""

ID_LEVEL: Final = 2
"""Policies of one agent id."""

_ACTION: Final = (Source.REQUEST, "action")
_TOOL: Final = (Source.REQUEST, "tool")

_SETTLED: Final = frozenset(("action", "tool"))  # what the index has already compared


Judged = tuple["CompiledPolicy", int]
"""A policy and the value of its condition for one request."""


class CompiledPolicy:
    """A policy ready to judge; immutable to others, shared between sets, hashed by identity.

    `test` covers validity period, agent globs and condition (0..3, see `truth.py`); scope, action
    and tool globs are the index's business (`covers`). `actions` and `tools` are the only literals
    the policy can match, None when it may match others; `indexed_test` is `test` for requests found
    by them, and does not compare them again. `judgements[value]` is the pair of the policy and that
    value, made once so that a decision allocates none.
    """

    __slots__ = (
        "_action_globs",
        "_agent_globs",
        "_digest",
        "_tool_globs",
        "actions",
        "effect",
        "guardrail",
        "indexed_test",
        "judgements",
        "level",
        "matching",
        "node",
        "policy",
        "policy_id",
        "priority",
        "test",
        "tools",
        "violations",
    )

    def __init__(
        self,
        policy: Policy,
        schema: AttributeSchema,
        compiler: ConditionCompiler,
        on_missing: OnMissing = OnMissing.NO_MATCH,
    ) -> None:
        """Compile; `on_missing` is for a policy that does not say what an absence means."""
        self.policy = policy
        self.policy_id = policy.policy_id
        self.priority = policy.priority
        self.effect = policy.action
        self.guardrail = policy.guardrail and policy.action is Effect.DENY
        self.level = _level(policy)
        self.matching = _matching(policy, on_missing)
        parsed, violations = parse(policy.conditions, schema)
        self.violations: tuple[FieldViolation, ...] = (*envelope_violations(policy), *violations)
        broken_target = any(target_violations(policy))
        self.node: Node = (
            All((parsed, Broken("the target cannot be read"))) if broken_target else parsed
        )
        targets = policy.targets
        self._action_globs = _globs(() if broken_target else targets.actions)
        self._tool_globs = _globs(() if broken_target else targets.tools)
        pinned = required_strings(parsed)
        self.actions = _literals(() if broken_target else targets.actions, pinned.get(_ACTION))
        self.tools = _literals(() if broken_target else targets.tools, pinned.get(_TOOL))
        self._agent_globs = _globs(() if broken_target else targets.agents)
        self.test = self._narrowed(compiler.compile(self.node))
        settled = without_pinned(self.node, _SETTLED)
        self.indexed_test = self._narrowed(compiler.compile(settled))
        self._digest = ""
        self.judgements: tuple[Judged, ...] = tuple((self, v) for v in range(len(NEGATED)))

    @property
    def digest(self) -> str:
        """What the policy says, as 64 hexadecimal digits; counted once."""
        if not self._digest:
            self._digest = policy_digest(self.policy)
        return self._digest

    def under(self, on_missing: OnMissing) -> "CompiledPolicy":
        """Return it with another default for absent attributes; itself if nothing changes."""
        matching = _matching(self.policy, on_missing)
        if matching == self.matching:
            return self
        other = copy(self)
        other.matching = matching
        other.judgements = tuple((other, value) for value in range(len(NEGATED)))
        return other

    def covers(self, action: str, tool: str) -> bool:
        """Whether the target's action and tool globs match."""
        return (self._action_globs is None or self._action_globs(action)) and (
            self._tool_globs is None or self._tool_globs(tool)
        )

    def in_scope(self, request: Request) -> bool:
        """Whether the agent is the one the policy belongs to."""
        scope = self.policy.scope
        if self.level == ID_LEVEL:
            return scope.agent_id == request.agent_id
        return self.level == NAMESPACE_LEVEL or scope.agent_name == agent_name(request)

    def applies(self, request: Request) -> bool:
        """Whether validity period and agent globs cover the request."""
        start, end = self.policy.not_before_ms, self.policy.not_after_ms
        if start is not None and request.now_ms < start:
            return False
        if end is not None and request.now_ms >= end:
            return False
        globs = self._agent_globs
        return globs is None or globs(request.agent_id) or globs(agent_name(request))

    def _narrowed(self, condition: Condition) -> Condition:
        """The condition, FALSE where the policy does not apply; itself when it always does."""
        policy = self.policy
        if (
            self._agent_globs is None
            and policy.not_before_ms is None
            and policy.not_after_ms is None
        ):
            return condition
        applies = self.applies
        return lambda request: condition(request) if applies(request) else FALSE

    def judge(self, request: Request) -> int:
        """Judge without an index: FALSE where target or scope do not cover the request.

        A defect (an operator that raises) counts as ERROR.
        """
        try:
            if self.in_scope(request) and self.covers(request.action, request.tool):
                return self.test(request)
        except Exception:  # noqa: BLE001 - a defect must neither allow nor crash: it fails closed
            return ERROR
        return FALSE


def agent_name(request: Request) -> str:
    """The agent's registered name; empty when the facts have none."""
    name = request.facts.get("agent_name", "")
    return name if isinstance(name, str) else ""


def _level(policy: Policy) -> int:
    if policy.scope.agent_id:
        return ID_LEVEL
    return NAME_LEVEL if policy.scope.agent_name else NAMESPACE_LEVEL


def _matching(policy: Policy, default: OnMissing) -> frozenset[int]:
    """The condition values with which the policy takes part in a decision."""
    if policy.action in {Effect.ALLOW, Effect.LOG_ONLY}:
        return frozenset((TRUE,))
    if (policy.on_missing or default) is OnMissing.MATCH:
        return frozenset((TRUE, ERROR, MISSING))
    return frozenset((TRUE, ERROR))


def _globs(patterns: tuple[str, ...]) -> Matcher | None:
    return compile_globs(patterns, DEFAULT_DELIMITERS) if patterns else None


def _literals(globs: tuple[str, ...], pinned: frozenset[str] | None) -> frozenset[str] | None:
    """The literals both the target and the condition permit; None when any name may match."""
    targeted = frozenset(globs) if globs and all(map(is_literal, globs)) else None
    if targeted is None or pinned is None:
        return pinned if targeted is None else targeted
    return targeted & pinned
