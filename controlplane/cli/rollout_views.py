"""Rollouts as tables and sentences. Times are the daemon's; `now` is seconds since 1970."""

import time
from collections.abc import Iterable
from typing import Final

from controlplane.cli.contract_words import word
from controlplane.cli.durations import compact, seconds_of
from controlplane.cli.moments import ago, moment
from controlplane.cli.rendering import Column, fields, table
from controlplane.cli.routes import WHOLE, percent
from fleetplane import AnalysisKind, RolloutPauseReason, RolloutPhase, RolloutVerdict
from fleetplane.v1 import rollout_service_pb2 as pb

BAR: Final = 41
"""Cells of a bar."""

_COLUMNS: Final = (
    Column("ROLLOUT", flexible=True),
    Column("AGENT", flexible=True),
    Column("FROM"),
    Column("TO"),
    Column("PHASE"),
    Column("STEP", right=True),
    Column("WEIGHT", right=True),
    Column("NEW FAILS", right=True),
    Column("OLD FAILS", right=True),
    Column("FOR", right=True),
    Column("MESSAGE", flexible=True),
)


def ended(rollout: pb.Rollout) -> bool:
    """Return whether nothing happens to a rollout any more."""
    return RolloutPhase(rollout.phase).ended


def succeeded(rollout: pb.Rollout) -> bool:
    """Return whether the new version has replaced the old one."""
    return RolloutPhase(rollout.phase) is RolloutPhase.SUCCEEDED


def phase_of(rollout: pb.Rollout) -> str:
    """Return the short name of the phase."""
    return word(RolloutPhase, rollout.phase)


def rate(counts: pb.OutcomeCounts) -> str:
    """Return the share of failures, `-` without any outcome."""
    return f"{100 * counts.failed / counts.total:.1f} %" if counts.total else "-"


def of_all(counts: pb.OutcomeCounts) -> str:
    """Return failures, outcomes and their share: `3/124 (2.4 %)`."""
    return f"{counts.failed}/{counts.total} ({rate(counts)})" if counts.total else "0/0"


def step_of(rollout: pb.Rollout) -> str:
    """Return the present step, counted from 1, and how many there are: `2/3`."""
    count = len(rollout.plan.steps)
    return f"{min(rollout.step_index + 1, count)}/{count}"


def rollouts_table(rollouts: Iterable[pb.Rollout]) -> str:
    """Lay out rollouts, one per line."""
    return table(
        _COLUMNS,
        [
            (
                one.rollout_id,
                one.agent_name,
                one.from_version,
                one.to_version,
                phase_of(one),
                step_of(one),
                percent(one.weight_bp),
                of_all(one.canary),
                of_all(one.stable),
                ago(one.phase_since),
                one.message,
            )
            for one in rollouts
        ],
    )


_TURNED_BACK: Final = frozenset(
    {RolloutPhase.ABORTING, RolloutPhase.DRAINING_NEW, RolloutPhase.ROLLED_BACK}
)
"""Phases of a rollout that goes back, or has."""


def steps_line(rollout: pb.Rollout) -> str:
    """Return the steps: passed with a tick, the present one with an arrow, those to come.

    The step at which a rollout turned back has a cross.
    """
    phase = RolloutPhase(rollout.phase)
    at = "✗" if phase in _TURNED_BACK else "▶"
    parts = []
    for index, step in enumerate(rollout.plan.steps):
        if succeeded(rollout) or index < rollout.step_index:
            sign = "✓"
        elif index == rollout.step_index and (phase in _TURNED_BACK or not ended(rollout)):
            sign = at
        else:
            sign = "·"
        parts.append(f"{sign} {percent(step.weight_bp)}" + (" (pause)" * step.pause_after))
    return "   ".join(parts)


def weight_bar(rollout: pb.Rollout, cells: int = BAR) -> str:
    """Return the share of the new version as a bar."""
    full = round(cells * rollout.weight_bp / WHOLE)
    return "█" * full + "░" * (cells - full)


def evidence_bar(rollout: pb.Rollout, cells: int = BAR) -> str:
    """Return where the evidence stands between a pass (left) and a breach (right).

    SEQUENTIAL: the log-likelihood ratio between its bounds. THRESHOLD: the error rate between
    none and twice the limit. Empty while there is nothing to show.
    """
    if AnalysisKind(rollout.plan.analysis.kind) is AnalysisKind.THRESHOLD:
        limit = rollout.plan.analysis.max_error_rate
        if not rollout.canary.total or not limit:
            return ""
        share = rollout.canary.failed / rollout.canary.total
        return _needle(share / (2 * limit), cells) + f"  {rate(rollout.canary)} of {limit:.1%}"
    known = rollout.hypotheses
    span = known.reject_at - known.accept_at
    if not rollout.HasField("hypotheses") or span <= 0 or not rollout.canary.total:
        return ""
    bar = _needle((rollout.llr - known.accept_at) / span, cells)
    bounds = f"{known.accept_at:.2f} .. {known.reject_at:.2f}"
    return f"{bar}  LLR {rollout.llr:+.2f} in {bounds}"


def _needle(position: float, cells: int) -> str:
    at = min(cells - 1, max(0, round(position * (cells - 1))))
    return "─" * at + "●" + "─" * (cells - 1 - at)


def verdict_of(rollout: pb.Rollout) -> str:
    """Return what the newest look at the outcomes said; empty before the first of this step."""
    if not rollout.measurements:
        return ""
    newest = rollout.measurements[-1]
    if newest.step_index != rollout.step_index:
        return ""
    said = word(RolloutVerdict, newest.verdict)
    return f"{said}: {newest.message}" if newest.message else said


def times_line(rollout: pb.Rollout, now: float | None = None) -> str:
    """Return what time does to the present phase: when a step may pass, when it ends by itself."""
    if ended(rollout):
        return ""
    at = time.time() if now is None else now
    parts = []
    if RolloutPhase(rollout.phase) is RolloutPhase.PROGRESSING:
        if not rollout.step_may_pass_at.seconds:
            parts.append(f"waits for the first work of {rollout.to_version}")
        else:
            left = rollout.step_may_pass_at.seconds + rollout.step_may_pass_at.nanos / 1e9 - at
            parts.append(f"may pass in {compact(left)}" if left > 0 else "observed long enough")
    if rollout.phase_deadline.seconds:
        left = rollout.phase_deadline.seconds + rollout.phase_deadline.nanos / 1e9 - at
        parts.append(f"{_AT_DEADLINE[RolloutPhase(rollout.phase)]} in {compact(max(0.0, left))}")
    return ", ".join(parts)


_AT_DEADLINE: Final = {
    RolloutPhase.PENDING: "gives up",
    RolloutPhase.PROGRESSING: "inconclusive",
    RolloutPhase.PAUSED: "aborts",
    RolloutPhase.PROMOTING: "retires the old version",
    RolloutPhase.DRAINING_OLD: "drain is forced",
    RolloutPhase.ABORTING: "goes on",
    RolloutPhase.DRAINING_NEW: "drain is forced",
}
"""What happens when a phase reaches its deadline."""


def pause_line(rollout: pb.Rollout) -> str:
    """Return why a rollout waits; empty if it does not."""
    if RolloutPhase(rollout.phase) is not RolloutPhase.PAUSED:
        return ""
    pause = rollout.pause
    by = f" by {pause.by}" if pause.by else ""
    reason = word(RolloutPauseReason, pause.reason)
    return f"{reason}{by} {ago(pause.since)} ago" + (f": {pause.message}" if pause.message else "")


def change_line(rollout: pb.Rollout) -> str:
    """Return a rollout in a line, for watches that are not a screen."""
    parts = [
        f"{phase_of(rollout):<13}",
        f"step {step_of(rollout)}",
        f"{percent(rollout.weight_bp):>6}",
        f"new {of_all(rollout.canary)}",
        f"old {of_all(rollout.stable)}",
    ]
    progressing = RolloutPhase(rollout.phase) is RolloutPhase.PROGRESSING
    if progressing and rollout.HasField("hypotheses") and rollout.canary.total:
        parts.append(f"LLR {rollout.llr:+.2f}")
    said = pause_line(rollout) or rollout.message or verdict_of(rollout)
    return "  ".join([*parts, said]).rstrip()


def rollout_details(rollout: pb.Rollout) -> str:
    """Lay out everything about a rollout, and its newest measurements."""
    shown = fields(
        {
            "rollout": rollout.rollout_id,
            "agent": rollout.agent_name,
            "from": f"{rollout.from_version} ({rollout.from_agent_id})",
            "to": f"{rollout.to_version} ({rollout.to_agent_id or 'not registered yet'})",
            "phase": phase_of(rollout),
            "message": rollout.message,
            "paused": pause_line(rollout),
            "steps": steps_line(rollout),
            "weight": f"{percent(rollout.weight_bp)} of new sessions",
            "new fails": of_all(rollout.canary),
            "old fails": of_all(rollout.stable),
            "evidence": evidence_bar(rollout),
            "verdict": verdict_of(rollout),
            "time": times_line(rollout),
            "judged by": _analysis(rollout.plan),
            "why": rollout.reason,
            "started": f"{moment(rollout.started_at)} by {rollout.started_by or '-'}",
            "ended": moment(rollout.ended_at),
            "superseded by": rollout.superseded_by,
            "repeats": rollout.retry_of,
        }
    )
    if not rollout.measurements:
        return shown
    return f"{shown}\n\n{measurements_table(rollout)}"


def _analysis(plan: pb.RolloutPlan) -> str:
    analysis = plan.analysis
    return (
        f"{word(AnalysisKind, analysis.kind)}, at most {analysis.max_error_rate:.1%}"
        f" failures, at least {analysis.min_tasks} outcomes, observed for"
        f" {compact(seconds_of(plan.observe))}"
    )


LOOKS: Final = 10
"""Measurements that details show, the newest."""


def measurements_table(rollout: pb.Rollout) -> str:
    """Lay out the newest looks at the outcomes, oldest first."""
    columns = (
        Column("AT"),
        Column("STEP", right=True),
        Column("WEIGHT", right=True),
        Column("NEW FAILS", right=True),
        Column("OLD FAILS", right=True),
        Column("LLR", right=True),
        Column("VERDICT"),
        Column("MESSAGE", flexible=True),
    )
    rows = [
        (
            moment(one.at),
            str(one.step_index + 1),
            percent(one.weight_bp),
            of_all(one.canary),
            of_all(one.stable),
            f"{one.llr:+.2f}",
            word(RolloutVerdict, one.verdict),
            one.message,
        )
        for one in rollout.measurements[-LOOKS:]
    ]
    return table(columns, rows)
