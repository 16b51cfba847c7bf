"""`fleetplane demo`: a small fleet that lives, dies and recovers before your eyes."""

from typing import Annotated, Final

import typer

from controlplane.cli.call import Globals, epilog, with_globals
from controlplane.cli.styles import PLAIN

AGENTS_PER_PROCESS: Final = 10
"""Agents of one process, if the number of processes is not given."""

FEWEST_PROCESSES: Final = 4
"""Processes at least, if their number is not given: where most of a fleet falls silent at once, the
plane suspects itself and calls nobody DEGRADED, so that one death must not be most of the fleet."""

LARGEST: Final = 5000
"""Agents of a demo at most: one machine runs the agents, the daemon and the view."""

_EXAMPLES = (
    "fleetplane demo",
    "fleetplane demo --agents 200 --processes 8 --duration 60",
    "fleetplane demo --own --no-chaos",
    "fleetplane demo --agents 6 --duration 20 -o json",
    "fleetplane demo --rollout",
)


async def _demo(
    call: Globals,
    *,
    agents: Annotated[
        int, typer.Option("--agents", min=1, max=LARGEST, help="How many agents.")
    ] = 50,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", min=1, max=64, help="Over how many; default one per 10, at least 4."
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option("--duration", min=1, metavar="SECONDS", help="End by itself after so long."),
    ] = None,
    chaos: Annotated[
        bool, typer.Option("--chaos/--no-chaos", help="Kill processes of agents now and then.")
    ] = True,
    own: Annotated[
        bool, typer.Option("--own", help="Run a daemon of the demo's own in any case.")
    ] = False,
    rollout: Annotated[
        bool,
        typer.Option("--rollout", help="A bad version is rolled back, a good one promoted."),
    ] = False,
) -> None:
    """Watch a small fleet live and die, or its versions change.

    Starts agents of the SDK in processes of their own, against the daemon at --address or, where
    none answers, a daemon of the demo's own with a temporary data directory and short liveness
    times. Shows who is alive, what they do and what happens. With --chaos it kills a process of
    agents with SIGKILL, waits until the plane calls them DEGRADED, starts them again, and so on.
    Ends cleanly at Ctrl-C or after --duration. On a daemon that is not its own, agents named
    demo-* stay behind as INACTIVE. With -o json every happening is a line.

    With --rollout: an agent in three versions under a stream of tasks. 1.0.0 works; 2.0.0 fails
    three of ten tasks and is rolled back by itself; 2.1.0 fails one of a hundred and replaces
    1.0.0. Ends within a minute with a sum: no task lost, none run twice. Exit code 1 if
    anything of that is not so.
    """
    if rollout:
        from controlplane.cli.demo_rollout import run_rollouts  # noqa: PLC0415  # SDK and rich

        await run_rollouts(call, own=own, duration=duration)
        return
    from controlplane.cli.demo_run import Options, run  # noqa: PLC0415  # imports the SDK and rich

    usual = max(FEWEST_PROCESSES, -(-agents // AGENTS_PER_PROCESS))
    count = min(agents, processes or usual)
    await run(
        call, Options(agents=agents, processes=count, duration=duration, chaos=chaos, own=own)
    )


demo = typer.Typer(**{**PLAIN, "no_args_is_help": False})
"""A single command."""

demo.command("demo", epilog=epilog(_EXAMPLES))(with_globals(_demo))
