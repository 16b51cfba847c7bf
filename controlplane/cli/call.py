"""What every command shares: where the daemon is, how to answer, what becomes of errors."""

import functools
import inspect
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from controlplane.cli.credentials import NO_CREDENTIALS, Credentials
from controlplane.cli.durations import deadline
from controlplane.cli.outcomes import WrongInput

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import FleetClient

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
"""Where `fleetplane serve` listens by itself."""

DEFAULT_NAMESPACE: Final = "default"

ADDRESS_HELP: Final = "Address of the daemon: host:port, dns:///name:port or unix:/path."
NAMESPACE_HELP: Final = "Tenant that the command works in."
OUTPUT_HELP: Final = "For people (table) or for programs (json, yaml)."
TIMEOUT_HELP: Final = "Deadline of a call, such as 30 or 2m; default 10s."
PROFILE_HELP: Final = "Profile of a login. [env var: FLEETPLANE_PROFILE]"
TOKEN_FILE_HELP: Final = (  # text for people, no secret
    "File with the token to show. [env var: FLEETPLANE_TOKEN_FILE; the token: FLEETPLANE_TOKEN]"  # noqa: S105
)
CA_HELP: Final = "PEM of the authorities that may vouch for the daemon; turns TLS on."
CERT_HELP: Final = "PEM of the certificate to show, for a port that demands one; turns TLS on."
KEY_HELP: Final = "PEM of the private key of --cert."

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
class Given:
    """The options of the root command as they were given, by hand or in the environment.

    None: not given; then the profile says it, or the default holds. See `resolving`.
    """

    address: str | None = None
    namespace: str | None = None
    output: Output = Output.TABLE
    timeout: float | None = None
    profile: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """What holds for a command: options first, then the environment, the profile, the defaults."""

    address: str
    """Where the daemon is."""
    namespace: str
    """Tenant."""
    output: Output
    """How to answer."""
    timeout: float | None
    """Deadline of a call in seconds; None: the default of the SDK or of the command."""
    credentials: Credentials = NO_CREDENTIALS
    """How the command proves who calls, and recognises the daemon."""
    profile: str = ""
    """Name of the profile that was used; empty: none."""

    def client(self) -> "FleetClient":
        """Return a client to enter with `async with`.

        Raises:
            WrongInput: the address is empty, or a file with a credential cannot be read.
        """
        if not self.address.strip():
            raise WrongInput("the address of the daemon is empty", hint="it is host:port")
        from fleetplane import (  # noqa: PLC0415  # a quarter of a second, for commands that call
            ChannelConfig,
            FleetClient,
            RetryPolicy,
            TlsConfig,
        )

        arguments = self.credentials.arguments()
        # By an authority or certificate of its own, or else by the authorities of this machine.
        secured = self.credentials.tls and not arguments.keys() & {"ca", "cert"}
        retry = RetryPolicy(initial_backoff=0.1, max_backoff=1.0, max_attempts=ATTEMPTS)
        config = ChannelConfig(
            retry=retry,
            default_timeout=self.timeout or 10.0,
            tls=TlsConfig() if secured else None,
        )
        return FleetClient(
            self.address, namespace=self.namespace, channel_config=config, **arguments
        )


_SHARED: Final[dict[str, tuple[Any, tuple[str, ...], dict[str, Any]]]] = {
    "address": (str, ("--address", "-a"), {"help": ADDRESS_HELP, "metavar": "HOST:PORT"}),
    "namespace": (str, ("--namespace", "-n"), {"help": NAMESPACE_HELP, "metavar": "NAME"}),
    "output": (Output, ("--output", "-o"), {"help": OUTPUT_HELP}),
    "timeout": (float, ("--timeout",), {"parser": deadline, "help": TIMEOUT_HELP}),
    "profile": (str, ("--profile",), {"help": PROFILE_HELP, "metavar": "NAME"}),
    "token_file": (Path, ("--token-file",), {"help": TOKEN_FILE_HELP, "metavar": "FILE"}),
    "ca_file": (Path, ("--ca",), {"help": CA_HELP, "metavar": "FILE"}),
    "cert_file": (Path, ("--cert",), {"help": CERT_HELP, "metavar": "FILE"}),
    "key_file": (Path, ("--key",), {"help": KEY_HELP, "metavar": "FILE"}),
}
"""The root's options by the field of `Given`, accepted after the command too."""

_WORTH_A_LINE: Final = frozenset({"output"})
"""Those that the help of every command shows; all are in the help of the root."""


def _shared_option(name: str, *, hidden: bool) -> inspect.Parameter:
    kind, flags, settings = _SHARED[name]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, typer.Option(*flags, hidden=hidden, **settings)],
    )


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


def with_globals(
    function: Command,
    *,
    prepare: Callable[[Given], Globals] | None = None,
    shown: frozenset[str] = frozenset(),
) -> Callable[..., None]:
    """Turn a command into what typer registers: shared options added, errors reported.

    Args:
        function: the command; its first parameter is `call: Globals`.
        prepare: makes that of the options; None: `resolving.resolve`.
        shown: fields of `Given` whose options the help shows, besides `output`.
    """
    signature = inspect.signature(function)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(signature.parameters.values())[1:]
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    @functools.wraps(function)
    def run(**values: Any) -> None:
        context: typer.Context = values.pop("ctx")
        after = {one: value for one in _SHARED if (value := values.pop(one)) is not None}
        given: Given = replace(context.obj, **after)
        run_command(given, function, values, prepare)

    visible = _WORTH_A_LINE | shown
    shared = [_shared_option(name, hidden=name not in visible) for name in _SHARED]
    parameters = [context, *own, *shared]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by typer
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def run_command(
    given: Given,
    function: Command,
    values: dict[str, Any],
    prepare: Callable[[Given], Globals] | None = None,
) -> None:
    """Run one command to its end and report an expected error.

    Raises:
        typer.Exit: with the exit code, if it failed.
    """
    import asyncio  # noqa: PLC0415  # 40 ms that help does not need

    # gRPC's core writes its own lines about handshakes and addresses; ours say it all. It looks
    # here once, when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from controlplane.cli.failures import report  # noqa: PLC0415  # same
    from controlplane.cli.resolving import resolve  # noqa: PLC0415  # same

    call = None
    try:
        call = (prepare or resolve)(given)
        result = function(call, **values)
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except Exception as error:
        code = report(error, call)
        if code is None:
            raise
        raise typer.Exit(code) from None
