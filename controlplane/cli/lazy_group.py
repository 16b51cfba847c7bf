"""The root command, whose groups are imported when they are used and not before."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from controlplane.cli.styles import PLAIN


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command or group known by name, described in one line, and loaded from elsewhere."""

    module: str
    """Where it is defined."""
    attribute: str
    """A `typer.Typer`, or a function that typer can make a command of."""
    summary: str
    """What the root help says about it."""

    def load(self, name: str) -> Any:
        """Import it and return the command."""
        found = getattr(importlib.import_module(self.module), self.attribute)
        if isinstance(found, typer.Typer):
            return get_command(found)
        app = typer.Typer(**PLAIN)
        app.command(name)(found)
        return get_command(app)


COMMANDS: Final[Mapping[str, LazyCommand]] = {
    "serve": LazyCommand("controlplane.cli.serve", "serve", "Run the daemon."),
    "health": LazyCommand("controlplane.cli.health", "health", "Whether a replica serves."),
    "agents": LazyCommand(
        "controlplane.cli.agents", "app", "Who is in the fleet, who is alive, who is best."
    ),
    "config": LazyCommand(
        "controlplane.cli.configs", "app", "What running agents are configured with."
    ),
    "policies": LazyCommand("controlplane.cli.policies", "app", "What agents may do."),
    "approvals": LazyCommand("controlplane.cli.approvals", "app", "What policies leave to people."),
    "tasks": LazyCommand("controlplane.cli.tasks", "app", "Work that agents are given."),
    "routes": LazyCommand(
        "controlplane.cli.routes", "app", "Which version of an agent gets how much."
    ),
    "rollout": LazyCommand(
        "controlplane.cli.rollouts", "app", "One version of an agent replaced by another."
    ),
    "prompts": LazyCommand(
        "controlplane.cli.prompts", "app", "What agents say to models, version by version."
    ),
    "experiments": LazyCommand(
        "controlplane.cli.experiments", "app", "Variants compared on part of the traffic."
    ),
    "login": LazyCommand("controlplane.cli.login", "login", "Prove to a daemon who you are."),
    "logout": LazyCommand("controlplane.cli.login", "logout", "Forget a login."),
    "profiles": LazyCommand(
        "controlplane.cli.profile_commands", "app", "The daemons you are logged in to."
    ),
    "auth": LazyCommand("controlplane.cli.auth", "app", "Who may do what."),
    "tokens": LazyCommand(
        "controlplane.cli.tokens", "app", "Credentials of programs, and tickets of agents."
    ),
    "namespaces": LazyCommand(
        "controlplane.cli.namespaces", "app", "Tenants, their bounds and what is used of them."
    ),
    "audit": LazyCommand(
        "controlplane.cli.audit", "app", "Who did what, and the proof that nobody changed it."
    ),
    "ca": LazyCommand(
        "controlplane.cli.ca", "app", "The certificate authority of daemons on this host."
    ),
    "demo": LazyCommand("controlplane.cli.demo", "demo", "Watch a small fleet live and die."),
}
"""Everything `fleetplane` can do, in the order of its help."""


class LazyGroup(TyperGroup):
    """A group that lists `COMMANDS` without importing any of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, in the order of the help."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one command, the one that is used; None if there is none of that name."""
        del ctx
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command = lazy.load(cmd_name)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands from what is known without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in COMMANDS.items()])
