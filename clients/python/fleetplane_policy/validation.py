"""Everything that makes a policy refusable, found in one go."""

from collections.abc import Iterable
from string import ascii_letters, digits
from typing import Final

from fleetplane_policy.attachments import attachment_violations
from fleetplane_policy.attributes import (
    DEFAULT_DELIMITERS,
    DEFAULT_SCHEMA,
    AttributeSchema,
)
from fleetplane_policy.errors import FieldViolation, MalformedInput
from fleetplane_policy.globs import compile_glob
from fleetplane_policy.grammar import parse
from fleetplane_policy.model import PRIORITY_LIMIT, Effect, Policy

ID_LIMIT: Final = 256
"""Characters of a policy id, an action and a tool."""

NAME_LIMIT: Final = 256
"""Bytes of a policy's name."""

TEXT_LIMIT: Final = 4_096
"""Bytes of a policy's description."""

GLOB_COUNT_LIMIT: Final = 256
"""Globs in one field of a target."""

_IDENTIFIER: Final = frozenset(ascii_letters + digits + "._:/-")


def validate_policy(
    policy: Policy, schema: AttributeSchema = DEFAULT_SCHEMA
) -> tuple[FieldViolation, ...]:
    """Return everything wrong with a policy, with paths such as `conditions.estimted_cost`."""
    _, condition_violations = parse(policy.conditions, schema)
    return (*envelope_violations(policy), *condition_violations)


def require_valid_policy(policy: Policy, schema: AttributeSchema = DEFAULT_SCHEMA) -> None:
    """Refuse a policy that is not valid.

    Raises:
        MalformedInput: with every violation.
    """
    violations = validate_policy(policy, schema)
    if violations:
        raise MalformedInput(*violations)


def is_identifier(text: str) -> bool:
    """Whether it can name an action or tool: 1..256 of A-Z, a-z, 0-9 and `._:/-`."""
    return 0 < len(text) <= ID_LIMIT and _IDENTIFIER.issuperset(text)


def envelope_violations(policy: Policy) -> tuple[FieldViolation, ...]:
    """Everything wrong outside the conditions."""
    return tuple(
        FieldViolation(field, why)
        for field, why in (
            *_identity(policy),
            *_effect(policy),
            *_validity(policy),
            *target_violations(policy),
            *attachment_violations(policy),
        )
    )


def _identity(policy: Policy) -> Iterable[tuple[str, str]]:
    if not is_identifier(policy.policy_id):
        yield "policy_id", f"must be 1..{ID_LIMIT} of letters, digits and ._:/-"
    for field, text, limit in (
        ("name", policy.name, NAME_LIMIT),
        ("description", policy.description, TEXT_LIMIT),
    ):
        if len(text.encode(errors="replace")) > limit:
            yield field, f"is longer than {limit} bytes"
    if policy.scope.agent_name and policy.scope.agent_id:
        yield "scope", "names an agent_name and an agent_id; a policy belongs to one of them"


def _effect(policy: Policy) -> Iterable[tuple[str, str]]:
    if type(policy.priority) is not int or abs(policy.priority) > PRIORITY_LIMIT:
        yield "priority", f"must be a whole number in -{PRIORITY_LIMIT}..{PRIORITY_LIMIT}"
    if policy.guardrail and policy.action is not Effect.DENY:
        yield "guardrail", "is only for DENY"


def _validity(policy: Policy) -> Iterable[tuple[str, str]]:
    start, end = policy.not_before_ms, policy.not_after_ms
    if start is not None and end is not None and end <= start:
        yield "not_after_ms", "must lie after not_before_ms"
    target = policy.targets
    targeted = target.actions or target.tools or target.agents
    if not policy.conditions and not targeted and not policy.match_all:
        yield "conditions", "are empty and there is no target; set match_all to match everything"
    if policy.match_all and policy.conditions:
        yield "match_all", "contradicts the conditions; remove one of them"


def target_violations(policy: Policy) -> Iterable[tuple[str, str]]:
    """Everything wrong with the target globs."""
    target = policy.targets
    identifiers = _IDENTIFIER | {"*"}
    for field, globs in (
        ("targets.actions", target.actions),
        ("targets.tools", target.tools),
        ("targets.agents", target.agents),
    ):
        if len(globs) > GLOB_COUNT_LIMIT:
            yield field, f"has more than {GLOB_COUNT_LIMIT} globs"
        for position, glob in enumerate(globs):
            here = f"{field}[{position}]"
            if field != "targets.agents" and not identifiers.issuperset(glob):
                yield here, "can never match: names have letters, digits and ._:/- only"
                continue
            try:
                compile_glob(glob, DEFAULT_DELIMITERS)
            except ValueError as error:
                yield here, str(error)
