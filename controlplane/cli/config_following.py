"""`fleetplane config watch` and `wait`: configuration on its way to the agents."""

import asyncio
from typing import Any, Final

from controlplane.cli.call import Output
from controlplane.cli.config_scopes import scope_name
from controlplane.cli.config_views import changes, leaves
from controlplane.cli.moments import clock
from controlplane.cli.rendering import note, write, write_event
from controlplane.cli.styles import Colour, coloured, printable
from fleetplane import ConfigUpdate, DeadlineExceeded, EffectiveConfig, FleetClient, Scope
from fleetplane.v1 import config_service_pb2

ROUND: Final = 2.0
"""Seconds between two reports of progress while waiting."""

MARGIN: Final = 0.5
"""Seconds by which a call may outlast its round: the daemon answers shortly before the deadline."""


async def follow(client: FleetClient, output: Output, scopes: list[Scope]) -> None:
    """Print the configuration of each scope, then every newer one, until cancelled or refused."""
    known: dict[Scope, EffectiveConfig] = {}
    async for update in client.watch_config(scopes):
        if output is Output.TABLE:
            _show(update, known.get(update.scope))
        else:
            write_event(output, as_event(update))
        known[update.scope] = update.config


def as_event(update: ConfigUpdate) -> dict[str, Any]:
    """Return an update for programs."""
    config = update.config
    return {
        "scope": scope_name(update.scope),
        "revision": str(config.revision),
        "digest": config.digest,
        "config": leaves(config),
        "position": {
            "epoch": update.position.epoch,
            "revision": str(update.position.revision),
        },
    }


def _show(update: ConfigUpdate, before: EffectiveConfig | None) -> None:
    head = f"{scope_name(update.scope)}  revision {update.config.revision}"
    write(f"{coloured(clock(), Colour.FAINT)}  {coloured(printable(head), Colour.STRONG)}")
    for line in changes(before, update.config):
        write(f"          {printable(line)}")


async def wait(
    client: FleetClient, revision: int, scope: Scope, limit: float
) -> config_service_pb2.WaitForConvergenceResponse:
    """Wait until everybody runs a revision, reporting progress on standard error.

    Args:
        client: an open client.
        revision: what must run.
        scope: whose instances.
        limit: seconds to wait at most.

    Returns:
        The last answer, converged or not.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    answer: config_service_pb2.WaitForConvergenceResponse | None = None
    while True:
        remaining = deadline - loop.time()
        try:
            answer = await client.wait_for_convergence(
                revision, scope=scope, timeout=max(MARGIN, min(ROUND + MARGIN, remaining))
            )
        except DeadlineExceeded:  # a busy daemon: what counts is the deadline of the whole wait
            if answer is None and loop.time() >= deadline:
                raise
        remaining = deadline - loop.time()
        if answer is not None:
            if answer.converged or remaining <= MARGIN:
                return answer
            note(f"{clock()}  {_progress(answer, revision)} ({remaining:.0f} s left)")


def _progress(answer: config_service_pb2.WaitForConvergenceResponse, revision: int) -> str:
    late = [one.instance_id for one in answer.laggards]
    there = answer.converged_instances
    return (
        f"{there} of {there + len(late)} instances run revision {revision};"
        f" waiting for {_some(late)}"
    )


def _some(names: list[str]) -> str:
    """Return the first three names, and how many more there are."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > len(names[:3]) else shown
