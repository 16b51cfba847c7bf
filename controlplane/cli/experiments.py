"""`fleetplane experiments`: variants compared on part of the traffic."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.arguments import member
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane.v1 import experiment_service_pb2 as pb

app = typer.Typer(
    **PLAIN,
    help="Compare variants of a prompt, or of a path of configuration, on part of the traffic. "
    "Looking often does no harm.",
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="Of the experiment.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")]


@command(
    app,
    "create",
    examples=(
        "fleetplane experiments create greeting-tone.yaml",
        "fleetplane experiments create greeting-tone.yaml --start",
        "",
        "A file says:",
        "  key: greeting-tone",
        "  prompt: greeting",
        "  variants:",
        "    - {name: brief, weight: 50, control: true, prompt_version: 3}",
        "    - {name: kind, weight: 50, prompt_version: 4}",
        "  primary: {name: solved}",
        "  coverage: 20",
    ),
)
async def create(
    call: Globals,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON.")],
    start: Annotated[bool, typer.Option("--start", help="Start it as well.")] = False,
) -> None:
    """Plan an experiment; nothing is dealt until it is started."""
    from controlplane.cli.experiment_files import experiment_in  # noqa: PLC0415  # the SDK

    key, spec = experiment_in(file)
    async with call.client() as client:
        experiment = await client.create_experiment(key, spec)
        if start:
            experiment = await client.start_experiment(key)
    _show(call, experiment)
    if not start:
        note(f"`fleetplane experiments start {key}` starts it")


@command(
    app,
    "list",
    examples=(
        "fleetplane experiments list",
        "fleetplane experiments list --state running -o json",
        "fleetplane experiments list --prompt greeting",
    ),
)
async def list_experiments(
    call: Globals,
    *,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="Such as running; repeatable."),
    ] = None,
    prompt: Annotated[str, typer.Option("--prompt", metavar="NAME", help="On this prompt.")] = "",
    path: Annotated[str, typer.Option("--path", metavar="PATH", help="On this path.")] = "",
) -> None:
    """List experiments by key, with what they say so far."""
    from fleetplane import ExperimentState  # noqa: PLC0415  # not for help

    states = [member(ExperimentState, one, "--state") for one in state or ()]
    async with call.client() as client:
        found = [
            one
            async for one in client.list_experiments(states=states, prompt=prompt, config_path=path)
        ]
    if call.output is not Output.TABLE:
        write_value(call.output, {"experiments": [as_dict(one) for one in found]})
        return
    from controlplane.cli.experiment_views import experiments_table  # noqa: PLC0415  # the SDK

    if not found:
        note("No experiment matches.")
        return
    write(experiments_table(found))


@command(app, "show", examples=("fleetplane experiments show greeting-tone",))
async def show(call: Globals, *, key: Key) -> None:
    """Show an experiment: its variants, what is counted, how they compare, and the verdict."""
    from fleetplane import ExperimentState  # noqa: PLC0415  # not for help

    async with call.client() as client:
        experiment = await client.get_experiment(key)
        begun = ExperimentState(experiment.state) is not ExperimentState.DRAFT
        analysis = await client.analyze_experiment(key) if begun else None
    if call.output is not Output.TABLE:
        shown = as_dict(experiment)
        if analysis is not None:
            shown["analysis"] = as_dict(analysis)
        write_value(call.output, shown)
        return
    from controlplane.cli.experiment_views import (  # noqa: PLC0415  # the SDK
        experiment_details,
        phases_table,
    )

    write(experiment_details(experiment))
    if analysis is not None:
        write("")
        _write_analysis(analysis)
    if len(experiment.phases) > 1:
        write("\n" + phases_table(experiment.phases))


@command(app, "start", examples=("fleetplane experiments start greeting-tone",))
async def start(call: Globals, *, key: Key, reason: Reason = "") -> None:
    """Begin the first phase: units are dealt variants from now on."""
    async with call.client() as client:
        _show(call, await client.start_experiment(key, reason=reason))


@command(app, "ramp", examples=("fleetplane experiments ramp greeting-tone 50",))
async def ramp(
    call: Globals,
    *,
    key: Key,
    coverage: Annotated[float, typer.Argument(metavar="PERCENT", help="Of the units.")],
    reason: Reason = "",
) -> None:
    """Cover more units. None changes its variant, and none loses it: coverage only grows."""
    from controlplane.cli.experiment_files import basis_points  # noqa: PLC0415  # the SDK

    points = basis_points(coverage, "PERCENT")
    async with call.client() as client:
        _show(call, await client.set_coverage(key, points, reason=reason))


@command(
    app,
    "phase",
    examples=(
        "fleetplane experiments phase greeting-tone --exclude-exposed --reason 'wrong model'",
        "fleetplane experiments phase greeting-tone --variants variants.yaml --coverage 10",
    ),
)
async def phase(
    call: Globals,
    *,
    key: Key,
    variants: Annotated[
        Path | None,
        typer.Option("--variants", metavar="FILE", help="Default: as they are."),
    ] = None,
    coverage: Annotated[
        float | None, typer.Option("--coverage", metavar="PERCENT", help="Default: as it is.")
    ] = None,
    exclude_exposed: Annotated[
        bool,
        typer.Option("--exclude-exposed", help="Units of earlier phases count for nothing."),
    ] = False,
    reason: Reason = "",
) -> None:
    """Deal anew and count from nothing, with other weights or after a mistake."""
    from controlplane.cli.experiment_files import (  # noqa: PLC0415  # the SDK
        basis_points,
        variants_in,
    )

    async with call.client() as client:
        present = await client.get_experiment(key)
        begun = await client.start_new_phase(
            key,
            variants=variants_in(variants) if variants else (),
            coverage_bp=None if coverage is None else basis_points(coverage, "--coverage"),
            exclude_exposed=exclude_exposed,
            expected_phase=len(present.phases),
            reason=reason,
        )
    _show(call, begun)


@command(
    app,
    "stop",
    examples=(
        "fleetplane experiments stop greeting-tone",
        "fleetplane experiments stop greeting-tone --promote kind --reason 'solves 5 % more'",
    ),
)
async def stop(
    call: Globals,
    *,
    key: Key,
    promote: Annotated[
        str, typer.Option("--promote", metavar="VARIANT", help="What everybody gets from now on.")
    ] = "",
    reason: Reason = "",
) -> None:
    """End an experiment. --promote moves the label `production`, or sets the path."""
    async with call.client() as client:
        _show(call, await client.stop_experiment(key, promote=promote, reason=reason))


@command(app, "delete", examples=("fleetplane experiments delete greeting-tone",))
async def delete(call: Globals, *, key: Key, reason: Reason = "") -> None:
    """Remove an experiment that does not run, with everything it has recorded."""
    async with call.client() as client:
        deleted = await client.delete_experiment(key, reason=reason)
    if call.output is not Output.TABLE:
        write_value(call.output, {"deleted": deleted})
        return
    write(f"{key} is gone" if deleted else f"there was no {key}")


@command(
    app,
    "assign",
    examples=(
        "fleetplane experiments assign greeting-tone session-17",
        "fleetplane experiments assign greeting-tone session-17 --agent writer -o json",
    ),
)
async def assign(
    call: Globals,
    *,
    key: Key,
    unit: Annotated[str, typer.Argument(metavar="UNIT", help="The session.")] = "",
    agent: Annotated[str, typer.Option("--agent", metavar="NAME", help="Who asks.")] = "",
) -> None:
    """Say which variant a unit gets, and why; nothing is recorded."""
    async with call.client() as client:
        assignment = await client.assign_variant(key, agent_name=agent, unit=unit)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(assignment))
        return
    from controlplane.cli.experiment_views import assignment_details  # noqa: PLC0415  # the SDK

    write(assignment_details(assignment))


@command(
    app,
    "analyze",
    examples=(
        "fleetplane experiments analyze greeting-tone",
        "fleetplane experiments analyze greeting-tone --phase 1 -o json | jq -r .verdict",
    ),
)
async def analyze(
    call: Globals,
    *,
    key: Key,
    number: Annotated[
        int, typer.Option("--phase", metavar="NUMBER", min=0, help="Default: the present one.")
    ] = 0,
) -> None:
    """Say what the outcomes so far mean."""
    async with call.client() as client:
        analysis = await client.analyze_experiment(key, phase=number)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(analysis))
        return
    _write_analysis(analysis)


@command(
    app,
    "record",
    examples=(
        "fleetplane experiments record greeting-tone session-17 --exposed kind --digest sha256:...",
        "fleetplane experiments record greeting-tone session-17 --outcome solved=1",
    ),
)
async def record(
    call: Globals,
    *,
    key: Key,
    unit: Annotated[str, typer.Argument(metavar="UNIT", help="The session.")],
    exposed: Annotated[
        str, typer.Option("--exposed", metavar="VARIANT", help="It has used this variant.")
    ] = "",
    digest: Annotated[
        str, typer.Option("--digest", metavar="DIGEST", help="Of what it was served.")
    ] = "",
    outcome: Annotated[
        list[str] | None,
        typer.Option("--outcome", metavar="METRIC=VALUE", help="What came of it; repeatable."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Instead of what was recorded.")
    ] = False,
) -> None:
    """Record by hand that a unit has used a variant, or what came of it."""
    from fleetplane.v1 import experiment_service_pb2 as pb  # noqa: PLC0415  # not for help

    if not exposed and not outcome:
        raise WrongInput("--exposed or --outcome is needed")
    outcomes = [
        pb.Outcome(unit=unit, metric=metric, value=value, replace=replace)
        for metric, value in map(_outcome, outcome or ())
    ]
    results: list[pb.RecordingResult] = []
    async with call.client() as client:
        if exposed:
            exposure = pb.Exposure(unit=unit, variant=exposed, digest=digest)
            results += await client.record_exposures(key, [exposure])
        if outcomes:
            results += await client.record_outcomes(key, outcomes)
    if call.output is not Output.TABLE:
        write_value(call.output, {"results": [as_dict(one) for one in results]})
    else:
        _write_results(results)
    for one in results:
        if one.HasField("error"):
            raise CommandFailed(one.error.message)


def _outcome(text: str) -> tuple[str, float]:
    metric, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        equals = ""
    if not equals or not metric:
        raise WrongInput(f"--outcome {text}: must be METRIC=NUMBER")
    return metric, number


def _write_results(results: "list[pb.RecordingResult]") -> None:
    from controlplane.cli.contract_words import word  # noqa: PLC0415  # beside what it is for
    from fleetplane import RecordingState  # noqa: PLC0415  # not for help

    for one in results:
        if not one.HasField("error"):
            write(word(RecordingState, one.state))


def _show(call: Globals, experiment: "pb.Experiment") -> None:
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(experiment))
        return
    from controlplane.cli.experiment_views import experiment_details  # noqa: PLC0415  # the SDK

    write(experiment_details(experiment))


def _write_analysis(analysis: "pb.ExperimentAnalysis") -> None:
    from controlplane.cli.experiment_views import (  # noqa: PLC0415  # the SDK
        analysis_details,
        arms_table,
    )

    write(analysis_details(analysis))
    write("\n" + arms_table(analysis))
