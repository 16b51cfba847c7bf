"""Prompts as tables."""

from collections.abc import Iterable

from controlplane.cli.moments import ago, moment
from controlplane.cli.rendering import Column, as_dict, fields, short, table
from controlplane.cli.styles import printable
from fleetplane import GateVerdict, from_struct
from fleetplane.v1 import prompt_service_pb2 as pb

_PROMPTS = (
    Column("NAME", flexible=True),
    Column("LATEST", right=True),
    Column("LABELS", flexible=True),
    Column("GATES", flexible=True),
    Column("CHANGED", right=True),
)
_VERSIONS = (
    Column("VERSION", right=True),
    Column("LABELS", flexible=True),
    Column("BYTES", right=True),
    Column("DIGEST"),
    Column("BY", flexible=True),
    Column("AGO", right=True),
    Column("REASON", flexible=True),
)
_MOVES = (
    Column("AGO", right=True),
    Column("LABEL"),
    Column("FROM", right=True),
    Column("TO", right=True),
    Column("BY", flexible=True),
    Column("GATE"),
    Column("REASON", flexible=True),
)
_REGRESSED = (
    Column("ITEM", flexible=True),
    Column("CRITICAL"),
    Column("BEFORE", right=True),
    Column("NOW", right=True),
)
_DIGEST_SHOWN = len("sha256:") + 12


def prompts_table(prompts: Iterable[pb.Prompt]) -> str:
    """Lay out prompts, one per line."""
    return table(
        _PROMPTS,
        [
            (
                one.name,
                str(one.latest_version),
                ", ".join(f"{x.label}={x.version}" for x in one.labels if x.label != "latest"),
                ", ".join(gate.label for gate in one.gates),
                ago(one.updated_at),
            )
            for one in prompts
        ],
    )


def versions_table(prompt: pb.Prompt, versions: Iterable[pb.PromptVersion]) -> str:
    """Lay out versions with the labels that are at them."""
    return table(
        _VERSIONS,
        [
            (
                str(one.version),
                ", ".join(x.label for x in prompt.labels if x.version == one.version),
                str(one.size_bytes),
                one.content_sha256[:_DIGEST_SHOWN],
                one.author,
                ago(one.created_at),
                f"restores {one.restored_from}: {one.reason}" if one.restored_from else one.reason,
            )
            for one in versions
        ],
    )


def version_details(version: pb.PromptVersion, labels: Iterable[str]) -> str:
    """Lay out a version with its content."""
    shown = fields(
        {
            "prompt": version.prompt,
            "version": str(version.version),
            "labels": ", ".join(labels),
            "digest": version.content_sha256,
            "author": version.author,
            "why": version.reason,
            "restores": str(version.restored_from) if version.restored_from else "",
            "written": f"{moment(version.created_at)} (revision {version.revision})",
            "variables": ", ".join(_variable(one) for one in version.variables),
            "config": short(from_struct(version.config)) if version.config.fields else "",
        }
    )
    parts = [f"[{one.role}]\n{one.content}" for one in version.messages] or [version.text]
    return shown + "\n\n" + _lines("\n".join(parts))


def _variable(one: pb.PromptVariable) -> str:
    kind = pb.PromptVariableType.Name(one.type).removeprefix("PROMPT_VARIABLE_TYPE_").lower()
    return f"{one.name} ({kind}{', optional' if one.optional else ''})"


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def moves_table(moves: Iterable[pb.LabelMove]) -> str:
    """Lay out moves of labels."""
    return table(
        _MOVES,
        [
            (
                ago(one.moved_at),
                one.label,
                str(one.from_version or "-"),
                str(one.to_version or "-"),
                one.moved_by,
                f"{one.verdict}, overridden" if one.override_reason else one.verdict,
                f"{one.reason} (override: {one.override_reason})"
                if one.override_reason
                else one.reason,
            )
            for one in moves
        ],
    )


def diff_text(found: pb.DiffPromptVersionsResponse) -> str:
    """Lay out what differs."""
    lines = [printable(line) for line in found.text_diff.rstrip("\n").split("\n") if line]
    for one in found.differences:
        before = short(_value(one, "before"))
        after = short(_value(one, "after"))
        lines.append(printable(f"{one.path}: {before} -> {after}"))
    return "\n".join(lines) or "Nothing differs."


def _value(one: pb.PromptDifference, side: str) -> object:
    if not one.HasField(side):  # type: ignore[arg-type]  # one of the two
        return "(absent)"
    return as_dict(getattr(one, side))


def verdict_name(comparison: pb.PromptComparison) -> str:
    """Return the verdict in a word."""
    return GateVerdict(comparison.verdict).name


def comparison_text(found: pb.PromptComparison) -> str:
    """Lay out what two evaluations say about each other."""
    known = bool(found.resamples)
    shown = fields(
        {
            "verdict": verdict_name(found),
            "compared": f"version {found.candidate_version} with version {found.baseline_version}",
            "items": str(found.items),
            "mean difference": f"{found.mean_difference:+.4f}" if known else "",
            "95 % interval": f"{found.interval_low:+.4f} to {found.interval_high:+.4f}"
            if known
            else "",
            "pass to fail": str(found.worse_items),
            "fail to pass": f"{found.better_items} (McNemar p = {found.mcnemar_p:.4f})",
            "costs": f"{found.cost_growth:+.1%}" if found.HasField("cost_growth") else "",
            "p95 latency": f"{found.latency_growth:+.1%}"
            if found.HasField("latency_growth")
            else "",
        }
    )
    lines = [shown, "", *(printable(f"- {reason}") for reason in found.reasons)]
    if found.regressed:
        rows = [
            (
                one.item_id,
                "yes" if one.critical else "",
                f"{one.baseline_score:.3f}",
                f"{one.candidate_score:.3f}",
            )
            for one in found.regressed[:20]
        ]
        lines += ["", table(_REGRESSED, rows)]
    return "\n".join(lines)
