"""The root command: options that hold for every command, and the process' exit code."""

import sys
from typing import Annotated

import typer

from controlplane import __version__
from controlplane.cli.call import (
    ADDRESS_HELP,
    NAMESPACE_HELP,
    OUTPUT_HELP,
    TIMEOUT_HELP,
    Globals,
    Output,
)
from controlplane.cli.durations import deadline
from controlplane.cli.lazy_group import LazyGroup
from controlplane.cli.styles import PLAIN

EPILOG = """\b
Examples:
  fleetplane serve
  fleetplane agents list --status ACTIVE
  fleetplane -a fleet.example.com:50051 -n staging config get --name writer
  fleetplane policies apply examples/policies/reference.yaml
  fleetplane tasks submit --kind summarize --agent writer --payload 'a text' --wait
  fleetplane rollout start writer --to 2.1.0 --watch
  fleetplane demo --agents 50

\b
Exit codes: 0 done; 1 refused or failed; 2 wrong usage or input file; 3 daemon not reachable.
Every option above may also be given after the command.
"""

app = typer.Typer(
    **{**PLAIN, "add_completion": True},
    cls=LazyGroup,
    name="fleetplane",
    help="Fleetplane: the control plane for fleets of AI agents.",
    epilog=EPILOG,
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001  # typer hands a flag its value
    if wanted:
        sys.stdout.write(f"fleetplane {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    address: Annotated[
        str,
        typer.Option(
            "--address", "-a", envvar="FLEETPLANE_ADDRESS", help=ADDRESS_HELP, metavar="HOST:PORT"
        ),
    ] = "127.0.0.1:50051",
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace", "-n", envvar="FLEETPLANE_NAMESPACE", help=NAMESPACE_HELP, metavar="NAME"
        ),
    ] = "default",
    output: Annotated[Output, typer.Option("--output", "-o", help=OUTPUT_HELP)] = Output.TABLE,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help=TIMEOUT_HELP, parser=deadline, metavar="DURATION"),
    ] = None,
    version: Annotated[  # noqa: FBT002  # read by its callback
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Remember the options for the command that follows."""
    del version
    ctx.obj = Globals(address=address, namespace=namespace, output=output, timeout=timeout)


def run() -> None:
    """Run the command line on the arguments of the process, and exit."""
    app(prog_name="fleetplane")
