"""The root command: options that hold for every command, and the process' exit code."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from controlplane import __version__
from controlplane.cli.call import (
    ADDRESS_HELP,
    CA_HELP,
    CERT_HELP,
    DEFAULT_ADDRESS,
    DEFAULT_NAMESPACE,
    KEY_HELP,
    NAMESPACE_HELP,
    OUTPUT_HELP,
    PROFILE_HELP,
    TIMEOUT_HELP,
    TOKEN_FILE_HELP,
    Given,
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
  fleetplane login --address fleet.example.com:50051 --ca ca.pem
  fleetplane auth can-i operate
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
        str | None,
        typer.Option(
            "--address",
            "-a",
            envvar="FLEETPLANE_ADDRESS",
            help=f"{ADDRESS_HELP} Default: the profile's, or {DEFAULT_ADDRESS}.",
            metavar="HOST:PORT",
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            envvar="FLEETPLANE_NAMESPACE",
            help=f"{NAMESPACE_HELP} Default: the profile's, or {DEFAULT_NAMESPACE}.",
            metavar="NAME",
        ),
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help=OUTPUT_HELP)] = Output.TABLE,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help=TIMEOUT_HELP, parser=deadline, metavar="DURATION"),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help=PROFILE_HELP, metavar="NAME")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help=TOKEN_FILE_HELP, metavar="FILE")
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option("--ca", envvar="FLEETPLANE_CA", help=CA_HELP, metavar="FILE"),
    ] = None,
    cert_file: Annotated[
        Path | None,
        typer.Option("--cert", envvar="FLEETPLANE_CERT", help=CERT_HELP, metavar="FILE"),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key", envvar="FLEETPLANE_KEY", help=KEY_HELP, metavar="FILE"),
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
    ctx.obj = Given(
        address=address,
        namespace=namespace,
        output=output,
        timeout=timeout,
        profile=profile,
        token_file=token_file,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )


def run() -> None:
    """Run the command line on the arguments of the process, and exit."""
    app(prog_name="fleetplane")
