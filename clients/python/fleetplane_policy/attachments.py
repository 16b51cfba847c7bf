"""What a policy carries besides its rule: who has to approve, and obligations. Bounds only.

The engine never reads either; it hands them on with the decisions that the policy determines.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from fleetplane_policy.model import ApprovalRequirement, ApprovalStage, Effect, Policy

STAGES_LIMIT: Final = 8
"""Stages of one approval."""

QUORUM_LIMIT: Final = 16
"""Votes that one stage may ask for."""

ELIGIBLE_LIMIT: Final = 64
"""Subjects named by one stage or escalation."""

ESCALATIONS_LIMIT: Final = 8
"""Escalations of one approval."""

SUBJECT_BYTES: Final = 256
"""Bytes of one subject, and of the name of a stage or obligation."""

LEAST_MS: Final = 1_000
"""Shortest time to decide or to use a grant: people are not faster."""

LONGEST_MS: Final = 86_400_000
"""A day: longest time to decide, to use a grant, or to wait before it can be used."""

OBLIGATIONS_LIMIT: Final = 16
"""Obligations of one policy: each comes with every decision that it determines."""

PARAMS_BYTES: Final = 4_096
"""Bytes of an obligation's parameters as JSON."""

PARAMS_LEVELS: Final = 8
"""How deep they may be nested."""


def attachment_violations(policy: Policy) -> Iterable[tuple[str, str]]:
    """Everything wrong with the approval and the obligations of a policy, as (field, why)."""
    if policy.approval is not None:
        if policy.action is not Effect.REQUIRE_APPROVAL:
            yield "approval", "is only for REQUIRE_APPROVAL"
        yield from _approval(policy.approval)
    if len(policy.obligations) > OBLIGATIONS_LIMIT:
        yield "obligations", f"are more than {OBLIGATIONS_LIMIT}"
    for position, obligation in enumerate(policy.obligations):
        here = f"obligations[{position}]"
        if not _is_text(obligation.name):
            yield f"{here}.name", f"must be 1-{SUBJECT_BYTES} bytes that print"
        yield from ((f"{here}.params", why) for why in _params(obligation.params))


def _approval(approval: ApprovalRequirement) -> Iterable[tuple[str, str]]:
    if len(approval.stages) > STAGES_LIMIT:
        yield "approval.stages", f"are more than {STAGES_LIMIT}"
    names: set[str] = set()
    for position, stage in enumerate(approval.stages):
        here = f"approval.stages[{position}]"
        if stage.name in names:
            yield f"{here}.name", "is there twice"
        names.add(stage.name)
        yield from _stage(here, stage)
    for field, milliseconds, least in (
        ("ttl", approval.ttl_ms, LEAST_MS),
        ("use_window", approval.use_window_ms, LEAST_MS),
        ("not_before_delay", approval.not_before_delay_ms, 0),
    ):
        if not least <= milliseconds <= LONGEST_MS:
            yield f"approval.{field}", f"must be {'0' if not least else '1 s'} - 24 h"
    yield from _escalations(approval)


def _stage(here: str, stage: ApprovalStage) -> Iterable[tuple[str, str]]:
    if stage.name and not _is_text(stage.name):
        yield f"{here}.name", f"must be at most {SUBJECT_BYTES} bytes that print"
    for field, votes in (("quorum", stage.quorum), ("deny_quorum", stage.deny_quorum)):
        if not 1 <= votes <= QUORUM_LIMIT:
            yield f"{here}.{field}", f"must be 1-{QUORUM_LIMIT}"
    yield from _subjects(f"{here}.eligible", stage.eligible)


def _escalations(approval: ApprovalRequirement) -> Iterable[tuple[str, str]]:
    if len(approval.escalations) > ESCALATIONS_LIMIT:
        yield "approval.escalations", f"are more than {ESCALATIONS_LIMIT}"
    earlier = 0
    for position, escalation in enumerate(approval.escalations):
        here = f"approval.escalations[{position}]"
        if not earlier < escalation.after_ms < approval.ttl_ms:
            yield f"{here}.after", "must lie after the one before it and before the end of the ttl"
        earlier = max(earlier, escalation.after_ms)
        if not escalation.eligible:
            yield f"{here}.eligible", "must name somebody"
        yield from _subjects(f"{here}.eligible", escalation.eligible)


def _subjects(here: str, subjects: Sequence[str]) -> Iterable[tuple[str, str]]:
    if len(subjects) > ELIGIBLE_LIMIT:
        yield here, f"names more than {ELIGIBLE_LIMIT} subjects"
    for position, subject in enumerate(subjects):
        if not _is_text(subject) or not _is_subject(subject):
            yield (
                f"{here}[{position}]",
                "must be user:<name>, group:<name>, token:<id>, role:approver or a SPIFFE pattern",
            )


def _is_subject(subject: str) -> bool:
    kind, _, name = subject.partition(":")
    if kind == "role":
        return name == "approver"
    if kind == "spiffe":
        return name.startswith("//")
    return kind in {"user", "group", "token"} and bool(name)


def _is_text(text: str) -> bool:
    return 0 < len(text.encode(errors="replace")) <= SUBJECT_BYTES and text.isprintable()


def _params(params: Any) -> Iterable[str]:
    if not _is_json(params, PARAMS_LEVELS):
        yield f"must be a JSON object of at most {PARAMS_LEVELS} levels"
        return
    if len(json.dumps(params, ensure_ascii=False).encode(errors="replace")) > PARAMS_BYTES:
        yield f"are larger than {PARAMS_BYTES} bytes"


def _is_json(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(
            isinstance(key, str) and _is_json(item, levels - 1) for key, item in value.items()
        )
    if isinstance(value, list | tuple):
        return levels > 0 and all(_is_json(item, levels - 1) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | bool | int)
