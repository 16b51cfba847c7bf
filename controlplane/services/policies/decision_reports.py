"""Records what agents decided in their own process, as they report it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from controlplane.domain.decisions.masking import mask_of
from controlplane.domain.decisions.records import DecisionGap, GapCause, Origin, parse_decision_id
from controlplane.domain.errors import AgentNotFound, FieldViolation, InvalidArgument
from controlplane.domain.policies import Decision, is_identifier, validate_claims
from controlplane.services.policies.decision_log_port import DecisionBatch, DecisionLog
from controlplane.services.policies.decision_packing import ColumnsBuilder, gap_batch
from controlplane.services.policies.decisions import facts_of
from controlplane.services.policies.recorded_decisions import EARLY_MS, ID_TIME_MS, LOCAL_SOURCE
from controlplane.services.policies.settings import settings_of
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel

MEMORY_SECONDS: Final = 10 * 60
"""How long a report is known, as requests are; every report leaves a key in the store."""

MAX_VIOLATIONS: Final = 20
"""Listed in one refusal."""

_DECISIONS, _GAP = 1, 2
"""A report is up to two batches, numbered so that a repetition finds which of them is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDecision:
    """A decision as an agent reports it."""

    decision_id: str
    decision: Decision
    at_ms: int
    action: str
    tool: str = ""
    session_id: str = ""
    claims: Mapping[str, Any]
    latency_ns: int = 0
    policy_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an agent says about its decisions."""

    agent_id: str
    batch_id: str
    decisions: Sequence[LocalDecision]
    number_lost: int = 0
    lost_from_ms: int = 0
    lost_to_ms: int = 0


class DecisionReports:
    """Takes the reports of agents."""

    def __init__(self, log: DecisionLog, read_model: ReadModel, clock: Clock) -> None:
        self._decisions = log
        self._read_model = read_model
        self._clock = clock

    async def record(self, namespace: str, report: Report, *, caller: str) -> bool:
        """Record a report; return False if it is a repetition.

        The facts are those of today: an agent's word is no fact. Reports are stored before they
        are answered, whatever the durability of their actions.

        Raises:
            AgentNotFound: nobody is called so.
            InvalidArgument: malformed decisions, named as `decisions[n].<field>`.
            StoreUnavailable: to be repeated with the same `batch_id`.
        """
        view = self._read_model.view(namespace)
        entry = view.agents.get(report.agent_id)
        if entry is None:
            raise AgentNotFound(report.agent_id)
        self._require_valid(report)
        source = f"{LOCAL_SOURCE}{report.agent_id}:{report.batch_id}"
        batches: list[DecisionBatch] = []
        if report.decisions:
            masked_paths = settings_of(view).decision_log.masked_paths
            builder = _built(report, facts_of(namespace, entry.agent), caller, masked_paths)
            batches.append(builder.batch(source, _DECISIONS))
        if report.number_lost:
            batches.append(gap_batch(_gap(report), source, _GAP))
        added = False
        for batch in batches:
            added |= await self._decisions.append(namespace, batch, memory_seconds=MEMORY_SECONDS)
        return added

    def _require_valid(self, report: Report) -> None:
        latest_ms = self._clock.store_ms() + EARLY_MS
        violations: list[FieldViolation] = []
        for number, one in enumerate(report.decisions):
            if len(violations) >= MAX_VIOLATIONS:
                break
            violations += [
                FieldViolation(f"decisions[{number}].{field}", why)
                for field, why in _violations(one, latest_ms)
            ]
        if report.number_lost and not 0 < report.lost_from_ms <= report.lost_to_ms <= latest_ms:
            violations.append(
                FieldViolation("lost_from", "must be a time, not after `lost_to` or the present")
            )
        if violations:
            raise InvalidArgument(*violations)


def _violations(one: LocalDecision, latest_ms: int) -> Sequence[tuple[str, str]]:
    wrong: list[tuple[str, str]] = []
    name = parse_decision_id(one.decision_id)
    if name is None:
        wrong.append(("decision.decision_id", "is none"))
    if not is_identifier(one.action):
        wrong.append(("action", "must be 1-256 characters of [A-Za-z0-9._:/-]"))
    if one.tool and not is_identifier(one.tool):
        wrong.append(("tool", "must be 1-256 characters of [A-Za-z0-9._:/-]"))
    if not 0 < one.at_ms <= latest_ms:
        wrong.append(("made_at", "must be a time, at most five minutes from now"))
    elif name is not None and abs(name.at_ms - one.at_ms) > ID_TIME_MS:
        # It is looked for at the time in its id, and nowhere else.
        wrong.append(("decision.decision_id", "must say the time `made_at`"))
    return wrong


def _built(
    report: Report, facts: Mapping[str, Any], caller: str, masked_paths: tuple[str, ...]
) -> ColumnsBuilder:
    builder, decisions = ColumnsBuilder(Origin.LOCAL), report.decisions
    answers: dict[tuple[Decision, str], Decision] = {}  # equal ones are written once
    builder.decision_id += [one.decision_id for one in decisions]
    builder.at_ms += [one.at_ms for one in decisions]
    builder.action += [one.action for one in decisions]
    builder.tool += [one.tool for one in decisions]
    builder.session_id += [one.session_id for one in decisions]
    builder.latency_ns += [one.latency_ns for one in decisions]
    builder.claims += [
        validate_claims(one.claims, field=f"decisions[{number}].context")
        for number, one in enumerate(decisions)
    ]
    builder.answer_of += builder.answers(
        [answers.setdefault((one.decision, one.policy_digest), one.decision) for one in decisions],
        lambda place: decisions[place].policy_digest,
    )
    builder.facts_of += builder.agents([facts] * len(decisions))
    builder.caller_of += [builder.caller(caller)] * len(decisions)
    if masked_paths:
        builder.mask(mask_of(masked_paths), range(len(builder)))
    return builder


def _gap(report: Report) -> DecisionGap:
    return DecisionGap(
        number_lost=report.number_lost,
        first_ms=report.lost_from_ms,
        last_ms=report.lost_to_ms,
        cause=GapCause.NOT_REPORTED,
        source=report.agent_id,
    )
