"""Sets of policies, replays and stages as tables."""

from collections.abc import Iterable, Sequence

from controlplane.cli.moments import moment
from controlplane.cli.rendering import Column, fields, table
from fleetplane import OnMissing, PolicyAction, PolicyChangeKind, PolicyStageKind
from fleetplane.v1 import policy_service_pb2 as pb

_NAMED = 5  # policies spelled out in one cell; the rest is counted


def revisions_table(revisions: Iterable[pb.PolicyRevision]) -> str:
    """Lay out the changes of the policies, one per line."""
    columns = (
        Column("REVISION", right=True),
        Column("WHEN"),
        Column("WHO", flexible=True),
        Column("KIND"),
        Column("WHAT", flexible=True),
        Column("WHY", flexible=True),
    )
    rows = [
        (
            str(one.revision),
            moment(one.made_at),
            one.made_by,
            PolicyChangeKind(one.kind).name,
            _what(one),
            one.reason,
        )
        for one in revisions
    ]
    return table(columns, rows)


def _what(one: pb.PolicyRevision) -> str:
    named = [
        *(f"+{each}" for each in one.added),
        *(f"~{each}" for each in one.changed),
        *(f"-{each}" for each in one.removed),
    ]
    origin = [f"candidate {one.candidate_id}"] if one.candidate_id else []
    origin += [f"back to {one.restored_from}"] if one.restored_from else []
    more = one.changes - _NAMED
    shown = named[:_NAMED] + ([f"and {more} more"] if more > 0 else [])
    return ", ".join([*origin, *shown])


def differences_table(differences: Iterable[pb.PolicyDifference]) -> str:
    """Lay out what differs between two sets, one policy per line."""
    rows = []
    for one in differences:
        if not one.HasField("before"):
            rows.append((one.policy_id, "added", ""))
        elif not one.HasField("after"):
            rows.append((one.policy_id, "removed", ""))
        else:
            rows.append((one.policy_id, "changed", ", ".join(one.fields)))
    columns = (Column("POLICY", flexible=True), Column("CHANGE"), Column("FIELDS", flexible=True))
    return table(columns, rows)


def candidates_table(candidates: Iterable[pb.PolicyCandidate]) -> str:
    """Lay out candidates, one per line."""
    columns = (
        Column("CANDIDATE"),
        Column("WRITTEN"),
        Column("WHO", flexible=True),
        Column("ON", right=True),
        Column("DESCRIPTION", flexible=True),
    )
    rows = [
        (
            one.candidate_id,
            moment(one.created_at),
            one.created_by,
            str(one.base_revision),
            one.description or one.reason,
        )
        for one in candidates
    ]
    return table(columns, rows)


def report_text(report: pb.ReplayReport) -> str:
    """Lay out what a replay found: out of how many first."""
    head = fields(
        {
            "replayed": f"{report.replayed:,} of {report.made:,} decisions",
            "from": moment(report.oldest_at),
            "to": moment(report.newest_at),
            "not replayed": _not_replayed(report),
            "sampled": (
                f"{report.sampled:,} records stand for about {report.unsampled:,.0f} more"
                if report.sampled
                else ""
            ),
            "flips": f"{report.flips:,}{_share(report)}",
            "may flip": (
                f"{report.undecidable:,} that hang on masked values of changed policies"
                if report.undecidable
                else ""
            ),
            "live already": (
                f"{report.agreed_by_live:,} of them are answered like that by today's policies"
                if report.agreed_by_live
                else ""
            ),
        }
    )
    parts = [head]
    for title, rows in (
        (
            ("FROM", "TO"),
            [
                (PolicyAction(one.before).name, PolicyAction(one.after).name, one.count)
                for one in report.by_action
            ],
        ),
        (("AGENT", "NAME"), [(a.agent_id, a.agent_name, a.count) for a in report.by_agent]),
        (("POLICY", ""), [(one.policy_id, "", one.count) for one in report.by_policy]),
    ):
        if rows:
            parts.append(_counts(title, rows))
    if report.examples:
        parts.append(_examples(report.examples))
    return "\n\n".join(parts)


def _share(report: pb.ReplayReport) -> str:
    return f" ({report.flips / report.replayed:.2%})" if report.replayed and report.flips else ""


def _not_replayed(report: pb.ReplayReport) -> str:
    reasons = (
        (report.masked, "hang on masked values"),
        (report.lost, "were not recorded"),
        (report.unreadable, "cannot be read"),
    )
    return ", ".join(f"{count:,} {why}" for count, why in reasons if count)


def _counts(title: tuple[str, str], rows: Sequence[tuple[str, str, int]]) -> str:
    columns = (
        Column(title[0], flexible=True),
        Column(title[1], flexible=True),
        Column("DECISIONS", right=True),
    )
    return table(columns, [(one, other, f"{count:,}") for one, other, count in rows[:10]])


def _examples(examples: Iterable[pb.FlipExample]) -> str:
    columns = (
        Column("DECISION", flexible=True),
        Column("ACTION", flexible=True),
        Column("FROM"),
        Column("TO"),
        Column("BECAUSE", flexible=True),
    )
    rows = [
        (
            one.decision_id,
            one.action,
            PolicyAction(one.before).name,
            PolicyAction(one.after).name,
            one.message,
        )
        for one in list(examples)[:10]
    ]
    return table(columns, rows)


def stage_text(found: pb.GetPolicyStageResponse) -> str:
    """Lay out a stage and how it is going."""
    stage = found.stage
    percent = stage.kind == pb.POLICY_STAGE_KIND_PERCENT
    head = fields(
        {
            "stage": PolicyStageKind(stage.kind).name,
            "candidate": stage.candidate_id,
            "agents": f"{found.agents} of {found.agents_total}" if percent else "",
            "percent": str(stage.percent) if percent else "",
            "began": f"{moment(stage.started_at)} by {stage.started_by}",
            "changed": f"{moment(stage.updated_at)} by {stage.updated_by}",
            "why": stage.reason,
            "not compared": f"{found.dropped:,}" if found.dropped else "",
        }
    )
    return f"{head}\n\n{report_text(found.report)}" if found.HasField("report") else head


def settings_text(settings: pb.PolicySettings) -> str:
    """Lay out the settings of a namespace's policies."""
    log, approval = settings.decision_log, settings.approval
    rules = [
        f"{', '.join(rule.actions)}: "
        f"{pb.DecisionDurability.Name(rule.durability).removeprefix('DECISION_DURABILITY_')}"
        + (f" {rule.sample_rate:g}" if rule.sample_rate < 1 else "")
        for rule in log.rules
    ]
    changed = f"{moment(settings.updated_at)} by {settings.updated_by} ({settings.revision})"
    return fields(
        {
            "default": PolicyAction(settings.default_action).name,
            "on missing": OnMissing(settings.on_missing).name,
            "log": "; ".join(rules) or "ASYNC",
            "masked": ", ".join(log.masked_paths),
            "ceilings": ", ".join(approval.ceilings),
            "max pending": str(approval.max_pending_per_agent),
            "changed": changed if settings.revision else "",
            "why": settings.reason,
        }
    )
