"""`fleetplane prompts eval` and `compare`: whether a version is good enough, for pipelines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from controlplane.cli.call import Globals, Output, command
from controlplane.cli.rendering import as_dict, note, write, write_value

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from controlplane.cli.prompt_files import Dataset
    from fleetplane import FleetClient
    from fleetplane.v1 import prompt_service_pb2 as pb

EXIT_CODES: Final = {"PASS": 0, "REGRESSION": 1, "INSUFFICIENT": 2}
"""What the process ends with, so that a pipeline stops."""

RECORD_SECONDS: Final = 60.0
"""Deadline of recording: an evaluation may be a message of 4 MiB."""

_EXAMPLE: Final = "fleetplane prompts eval greeting --version 7 --dataset cases.jsonl"

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the prompt.")]
Version = Annotated[
    int, typer.Option("--version", metavar="NUMBER", min=1, help="The version that is judged.")
]
Against = Annotated[
    str,
    typer.Option(
        "--against", metavar="LABEL|NUMBER", help="What it is compared with: a label or a version."
    ),
]


def add_to(group: typer.Typer) -> None:
    """Add the commands."""
    command(
        group,
        "eval",
        examples=(
            f"{_EXAMPLE} --scorer judge:score",
            f"{_EXAMPLE} --scorer judge:score --trials 3 --against 6",
        ),
    )(evaluate)
    command(
        group,
        "compare",
        examples=("fleetplane prompts compare greeting --version 7 --against production",),
    )(compare)


async def evaluate(
    call: Globals,
    *,
    name: Name,
    version: Version,
    dataset: Annotated[
        Path,
        typer.Option(
            "--dataset", metavar="FILE", help="JSON lines, each an object with an id of its own."
        ),
    ],
    scorer: Annotated[
        str,
        typer.Option(
            "--scorer",
            metavar="MODULE:FUNCTION",
            help="Called with prompt, item and trial; returns 0-1, a bool, or an object with "
            "score, passed, cost, latency_ms. May be asynchronous.",
        ),
    ],
    scorer_version: Annotated[
        str, typer.Option("--scorer-version", metavar="TEXT", help="Of the scorer.")
    ] = "",
    trials: Annotated[
        int, typer.Option("--trials", metavar="NUMBER", min=1, max=20, help="Of each item.")
    ] = 1,
    concurrency: Annotated[
        int,
        typer.Option("--concurrency", metavar="NUMBER", min=1, max=256, help="Trials at a time."),
    ] = 8,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The model, for the record.")
    ] = "",
    seed: Annotated[
        int, typer.Option("--seed", metavar="NUMBER", help="The seed, for the record.")
    ] = 0,
    against: Against = "production",
) -> None:
    """Evaluate a version on a data set, record that, and compare it.

    What it is compared with is evaluated as well, unless that was done on this data set with this
    scorer. Exit code: 0 pass, or nothing to compare with; 1 regression, or anything failed; 2 not
    enough evidence, or wrong usage.
    """
    from controlplane.cli.prompt_files import read_dataset  # noqa: PLC0415  # imports the SDK
    from controlplane.cli.prompt_scoring import load_scorer  # noqa: PLC0415  # same

    cases, score = read_dataset(dataset), load_scorer(scorer)

    async def run(client: "FleetClient", number: int) -> "pb.PromptEvaluation":
        from controlplane.cli import prompt_scoring  # noqa: PLC0415  # imports the SDK

        prompt = await client.get_prompt_version(name, version=number)
        items = await prompt_scoring.evaluate(
            score, prompt, cases.items, trials=trials, concurrency=concurrency
        )
        recorded = await client.record_evaluation(
            name,
            number,
            items,
            dataset_sha256=cases.sha256,
            scorer=scorer,
            scorer_version=scorer_version,
            model=model,
            seed=seed,
            timeout=RECORD_SECONDS,
        )
        note(f"version {number}: mean score {recorded.mean_score:.4f}, {recorded.evaluation_id}")
        return recorded

    async with call.client() as client:
        baseline = await _baseline(client, name, against)
        candidate = await run(client, version)
        if not baseline or baseline == version:
            what = f"{against} is nowhere yet" if not baseline else "it is what it would replace"
            note(f"Nothing to compare with: {what}.")
            if call.output is not Output.TABLE:
                write_value(call.output, {"evaluation": as_dict(candidate)})
            return
        known = await _evaluated(client, name, baseline, cases, scorer, scorer_version)
        other = known or await run(client, baseline)
        comparison = await client.compare_prompt_versions(
            name,
            candidate_evaluation_id=candidate.evaluation_id,
            baseline_evaluation_id=other.evaluation_id,
            gate_label=await _gate_label(client, name, against),
            min_revision=max(candidate.revision, other.revision),
        )
    _end(call, comparison)


async def compare(
    call: Globals, *, name: Name, version: Version, against: Against = "production"
) -> None:
    """Compare two versions that were evaluated.

    Exit code: 0 pass; 1 regression, or it was refused; 2 not enough evidence, or wrong usage.
    """
    async with call.client() as client:
        number = int(against) if against.isdecimal() else 0
        comparison = await client.compare_prompt_versions(
            name,
            version,
            baseline_version=number,
            baseline_label="" if number else against,
            gate_label=await _gate_label(client, name, against),
        )
    _end(call, comparison)


async def _baseline(client: "FleetClient", name: str, against: str) -> int:
    """Return the version that is compared with; 0: the label is nowhere."""
    if against.isdecimal():
        return int(against)
    page = await client.list_prompt_versions_page(name, page_size=1)
    return next((one.version for one in page.prompt.labels if one.label == against), 0)


async def _gate_label(client: "FleetClient", name: str, against: str) -> str:
    """Return the label whose gate's rules hold; empty: the defaults do."""
    page = await client.list_prompt_versions_page(name, page_size=1)
    return against if any(one.label == against for one in page.prompt.gates) else ""


async def _evaluated(
    client: "FleetClient",
    name: str,
    version: int,
    cases: "Dataset",
    scorer: str,
    scorer_version: str,
) -> "pb.PromptEvaluation | None":
    """Return the evaluation of a version on a data set with a scorer; None: there is none."""
    async for one in client.list_evaluations(name, version=version, dataset_sha256=cases.sha256):
        if (one.scorer, one.scorer_version) == (scorer, scorer_version):
            return one
    return None


def _end(call: Globals, comparison: "pb.PromptComparison") -> None:
    from controlplane.cli.prompt_views import (  # noqa: PLC0415  # imports the SDK
        comparison_text,
        verdict_name,
    )

    if call.output is Output.TABLE:
        write(comparison_text(comparison))
    else:
        write_value(call.output, as_dict(comparison))
    raise typer.Exit(EXIT_CODES.get(verdict_name(comparison), 1))
