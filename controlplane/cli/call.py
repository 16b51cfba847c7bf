"""What every command shares: where the daemon is, how to answer, what becomes of errors."""

import functools
import inspect
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from controlplane.cli.durations import deadline
from controlplane.cli.outcomes import WrongInput

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import FleetClient

ADDRESS_HELP: Final = "Address of the daemon: host:port, dns:///name:port or unix:/path."
NAMESPACE_HELP: Final = "Tenant that the command works in."
OUTPUT_HELP: Final = "For people (table) or for programs (json, yaml)."
TIMEOUT_HELP: Final = "Deadline of a call, such as 30 or 2m; default 10s."

ATTEMPTS: Final = 4
"""Attempts of one call. An agent retries until its deadline; a person at a prompt wants to hear
within a second that nobody answers."""


class Output(StrEnum):
    """How a command answers."""

    TABLE = "table"
    """For people; may change between releases."""
    JSON = "json"
    """The messages of the contract as protobuf JSON with snake_case names; watches print lines."""
    YAML = "yaml"
    """The same as YAML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """The options of the root command."""

    address: str
    """Where the daemon is."""
    namespace: str
    """Tenant."""
    output: Output
    """How to answer."""
    timeout: float | None
    """Deadline of a call in seconds; None: the default of the SDK or of the command."""

    def client(self) -> "FleetClient":
        """Return a client to enter with `async with`.

        Raises:
            WrongInput: the address is empty.
        """
        if not self.address.strip():
            raise WrongInput("the address of the daemon is empty", hint="it is host:port")
        # gRPC's core writes its own lines about addresses it cannot resolve; ours says it all.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from fleetplane import (  # noqa: PLC0415  # a quarter of a second, for commands that call
            ChannelConfig,
            FleetClient,
            RetryPolicy,
        )

        retry = RetryPolicy(initial_backoff=0.1, max_backoff=1.0, max_attempts=ATTEMPTS)
        config = ChannelConfig(retry=retry, default_timeout=self.timeout or 10.0)
        return FleetClient(self.address, namespace=self.namespace, channel_config=config)


def _shared_option(name: str, kind: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


_SHARED: Final = (
    _shared_option("address", str, typer.Option("--address", "-a", hidden=True)),
    _shared_option("namespace", str, typer.Option("--namespace", "-n", hidden=True)),
    _shared_option("output", Output, typer.Option("--output", "-o", help=OUTPUT_HELP)),
    _shared_option("timeout", float, typer.Option("--timeout", parser=deadline, hidden=True)),
)
"""The root's options, accepted after the command too. Only `--output` is worth a line in the help
of every command."""

Command = Callable[..., Awaitable[None] | None]


def command(
    app: typer.Typer, name: str, *, examples: tuple[str, ...]
) -> Callable[[Command], Command]:
    """Register a function as a command; its first parameter is `call: Globals`.

    The function may be asynchronous. Errors that operators can expect become a line on stderr and
    an exit code; see `failures`.

    Args:
        app: group the command belongs to.
        name: what is typed.
        examples: complete command lines for the help.
    """

    def register(function: Command) -> Command:
        first_line = (function.__doc__ or "").partition("\n")[0]
        registered = app.command(name, short_help=first_line, epilog=epilog(examples))
        registered(with_globals(function))
        return function

    return register


def epilog(examples: tuple[str, ...]) -> str:
    """Return the part of a help text that shows examples."""
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)


def with_globals(function: Command) -> Callable[..., None]:
    """Turn a command into what typer registers: shared options added, errors reported."""
    signature = inspect.signature(function)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(signature.parameters.values())[1:]
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    @functools.wraps(function)
    def run(**values: Any) -> None:
        context: typer.Context = values.pop("ctx")
        given = {
            one.name: value for one in _SHARED if (value := values.pop(one.name, None)) is not None
        }
        run_command(replace(context.obj, **given), function, values)

    parameters = [context, *own, *_SHARED]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by typer
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def run_command(call: Globals, function: Command, values: dict[str, Any]) -> None:
    """Run one command to its end and report an expected error.

    Raises:
        typer.Exit: with the exit code, if it failed.
    """
    import asyncio  # noqa: PLC0415  # 40 ms that help does not need

    from controlplane.cli.failures import report  # noqa: PLC0415  # same

    try:
        result = function(call, **values)
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except Exception as error:
        code = report(error, call)
        if code is None:
            raise
        raise typer.Exit(code) from None
