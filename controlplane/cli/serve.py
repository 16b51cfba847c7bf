"""`fleetplane serve`: settings, logging, event loop, signals, and several workers on one port."""

import asyncio
import contextlib
import gc
import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_ADDRESS = "127.0.0.1:50051"  # where the command line looks by itself

_EVERY_ADDRESS = ("0.0.0.0", "[::]")  # noqa: S104 - compared with, not bound

EXIT_FAILED = 1
EXIT_USAGE = 2


def serve(
    listen: Annotated[
        str | None,
        typer.Option(help="gRPC address: host:port (port 0 picks a free one) or unix:/path."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="`embedded`, or the URL of a Redis >= 6.2 or Valkey: redis://, rediss://, "
            "unix://, redis+sentinel://host:port,.../service, redis+cluster://host:port,..."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the embedded store keeps its data.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the port.")] = None,
    secure: Annotated[
        bool | None,
        typer.Option(
            "--secure",
            help="TLS and authentication by the built-in certificate authority, which is made if "
            "it is not there.",
        ),
    ] = None,
    listen_mtls: Annotated[
        str | None,
        typer.Option(help="Address, host:port, of the port that demands client certificates."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="PEM certificate chain to serve with; turns authentication on."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key of --tls-cert.")] = None,
    oidc_issuer: Annotated[
        str | None, typer.Option(help="Issuer of the OIDC tokens that are accepted.")
    ] = None,
    oidc_audience: Annotated[
        str | None, typer.Option(help="Audience that those tokens must be for.")
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option(
            "--insecure",
            help="Allow an address other than loopback without TLS and authentication.",
        ),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="`console` or `json`.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,  # noqa: FBT002 - a flag
) -> None:
    """Run the daemon.

    Without options it listens on 127.0.0.1:50051 and keeps its state in an embedded Valkey under
    your data directory. Every option is also a variable FLEETPLANE_<OPTION>; docs/settings.md lists
    all settings.

    Examples:
      fleetplane serve

      fleetplane serve --listen 127.0.0.1:0 --data-dir /tmp/fleet --log-format json

      fleetplane serve --store redis://redis.internal:6379/0 --workers 2

      fleetplane serve --secure --listen 0.0.0.0:50051 --listen-mtls 0.0.0.0:50052
    """
    from pydantic import ValidationError  # noqa: PLC0415 - imports are what --help waits for

    from controlplane.settings import Settings  # noqa: PLC0415

    chosen: dict[str, Any] = {
        "listen": listen,
        "store": store,
        "data_dir": data_dir,
        "workers": workers,
        "secure": secure,
        "listen_mtls": listen_mtls,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "oidc_issuer": oidc_issuer,
        "oidc_audience": oidc_audience,
        "insecure": insecure,
        "log_format": log_format,
        "log_level": log_level,
    }
    try:
        settings = Settings(**{key: value for key, value in chosen.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            field = "".join(f"{part}: " for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            typer.echo(f"fleetplane: {field}{message}", err=True)
        raise typer.Exit(EXIT_USAGE) from None
    raise typer.Exit(run(settings, is_worker=worker))


def run(settings: Any, *, is_worker: bool = False) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    # Before gRPC is imported: its own library writes a plain line for every failed handshake.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from controlplane.api.context import log_fields  # noqa: PLC0415
    from controlplane.telemetry.logging import LogFormat, configure_logging  # noqa: PLC0415

    configure_logging(
        log_format=LogFormat(settings.log_format),
        level=settings.log_level.upper(),
        call_fields=log_fields,
    )
    _collect_garbage_seldom()
    main = (
        _supervise(settings)
        if settings.workers > 1 and not is_worker
        else _serve(settings, is_worker=is_worker)
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _collect_garbage_seldom() -> None:
    """Let the cycle collector look at what is old only seldom, and at little at a time.

    A daemon keeps millions of small records, none of which is garbage, and what its calls leave
    behind dies by reference count, but for six objects of grpc's own per call. At Python's defaults
    (700, 10, 10) the collector takes a third of a batch registration. With these, 5,000 more
    objects than were freed start a look at the new ones, which stops everybody for 1 ms every 800
    calls (at 50,000 it was 14 ms, which one call in a hundred noticed), and 20,000 such looks one
    at everything.
    """
    gc.collect()
    gc.freeze()  # modules and what they made live as long as the process
    gc.set_threshold(5_000, 200, 100)


def _loop_factory() -> Any:
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(settings: Any, *, is_worker: bool) -> int:
    """Run one replica."""
    from controlplane.api.server import ListenError  # noqa: PLC0415
    from controlplane.app import App, Role  # noqa: PLC0415
    from controlplane.credentials.files import CredentialFileError  # noqa: PLC0415
    from controlplane.storage.redis.embedded import EmbeddedStoreError  # noqa: PLC0415
    from controlplane.storage.redis.errors import StoreConfigurationError  # noqa: PLC0415

    stop = _stop_on_signals()
    if is_worker:
        _stop_with_parent(stop)
    app = App(settings, Role(is_worker=is_worker))
    starting = asyncio.create_task(app.__aenter__(), name="start")
    stopping = asyncio.create_task(stop.wait(), name="stop-while-starting")
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return 0
        await starting
    except (
        ListenError,
        StoreConfigurationError,
        EmbeddedStoreError,
        CredentialFileError,
    ) as error:
        typer.echo(f"fleetplane: {error}", err=True)
        return EXIT_FAILED
    finally:
        stopping.cancel()
        starting.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
    try:

        def announce() -> None:
            _announce(settings, app.serving, is_worker=is_worker)

        return 0 if await app.run(stop, announce) else EXIT_FAILED
    except EmbeddedStoreError as error:
        typer.echo(f"fleetplane: {error}", err=True)
        return EXIT_FAILED
    finally:
        await app.__aexit__(None, None, None)


def _stop_on_signals() -> asyncio.Event:
    """Return an event that the first signal sets; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            # Somebody insists. The store's own process sees our end and stops by itself.
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _stop_with_parent(stop: asyncio.Event) -> None:
    """Set `stop` when standard input ends: nobody writes to it, and its other end is the parent."""
    loop = asyncio.get_running_loop()
    stdin = sys.stdin.fileno()

    def on_input() -> None:
        if not os.read(stdin, 1):
            loop.remove_reader(stdin)
            stop.set()

    loop.add_reader(stdin, on_input)


def _announce(settings: Any, serving: Any, *, is_worker: bool) -> None:
    """Say where the daemon is: one JSON line for programs, a few lines for people."""
    from controlplane import __version__  # noqa: PLC0415

    if is_worker or settings.log_format == "json":
        line = {
            "event": "serving",
            "listen": serving.listen,
            "listen_mtls": serving.listen_mtls,
            "authenticates": serving.authenticates,
            "ca_bundle": serving.ca_bundle,
            "admin_token": serving.admin_token,
            "store": serving.store,
            "server": serving.server,
            "version": __version__,
            "pid": os.getpid(),
        }
        print(json.dumps(line), flush=True)  # noqa: T201 - standard output is the interface
        return
    where = f", data in {settings.data_dir}" if settings.uses_embedded_store else ""
    secure = serving.authenticates
    open_to = "connects from anywhere" if settings.insecure else "calls on this machine"
    access = _how_to_prove(serving) if secure else _OPEN.format(open_to)
    command, at = _command(), "" if serving.listen == DEFAULT_ADDRESS else f" -a {serving.listen}"
    # The demo has no credentials, so it is for daemons that want none.
    demo = "" if secure else f"\n          {command} demo --agents 50{at}"
    login = f"\n  login   {command} {_login(serving)}" if secure else ""
    # Once logged in, the profile knows the address.
    at = "" if secure else at
    print(  # noqa: T201
        f"""Fleetplane {__version__} serves gRPC on {serving.listen}
  store   {serving.store} ({serving.server}{where})
{access}{login}
  look    {_by_hand(serving)} list
          {command} agents list{at}{demo}
Stop with Ctrl-C.""",
        flush=True,
    )


_OPEN = "  access  no authentication: whoever {} is the local admin"


def _how_to_prove(serving: Any) -> str:
    """Say what callers need."""
    lines = ["  access  TLS and authentication"]
    if serving.listen.startswith("unix:"):
        lines = ["  access  authentication; no TLS on a unix socket"]
    if serving.listen_mtls is not None:
        lines.append(f"  agents  with their certificates on {serving.listen_mtls}")
    if serving.ca_bundle is not None:
        lines.append(f"  trust   {serving.ca_bundle} (FLEETPLANE_CA of clients)")
    if serving.admin_token is not None:
        lines.append(f"  admin   the token in {serving.admin_token} (FLEETPLANE_TOKEN)")
    return "\n".join(lines)


def _login(serving: Any) -> str:
    """Return how this command line proves itself to the daemon, ready to be pasted."""
    address = serving.listen
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        address = f"localhost:{port}" if host in _EVERY_ADDRESS else address
    words = ["login", "-a", address]
    if serving.ca_bundle is not None and not address.startswith("unix:"):
        words += ["--ca", str(Path(serving.ca_bundle).absolute())]
    if serving.admin_token is not None:
        words += ["--token-file", str(Path(serving.admin_token).absolute())]
    return shlex.join(words)


def _by_hand(serving: Any) -> str:
    """Return how grpcurl connects."""
    if not serving.authenticates or serving.listen.startswith("unix:"):
        return f"grpcurl -plaintext {serving.listen}"
    trust = "" if serving.ca_bundle is None else f" -cacert {serving.ca_bundle}"
    return f"grpcurl{trust} {serving.listen}"


def _command() -> str:
    """Return how this installation's command is called from here."""
    if shutil.which("fleetplane"):
        return "fleetplane"
    return os.path.relpath(Path(sys.executable).parent / "fleetplane")


async def _supervise(settings: Any) -> int:
    """Own the store and run the workers; the first worker that fails ends all."""
    from controlplane.app import embedded_store  # noqa: PLC0415
    from controlplane.settings import EMBEDDED  # noqa: PLC0415
    from controlplane.storage.redis.embedded import EmbeddedStoreError  # noqa: PLC0415
    from controlplane.workers import Workers  # noqa: PLC0415

    stop = _stop_on_signals()
    try:
        async with contextlib.AsyncExitStack() as stack:
            url = settings.store
            watching = []
            if settings.uses_embedded_store:
                store = await stack.enter_async_context(embedded_store(settings))
                url = store.url
                watching.append(store.watch)
            workers = await stack.enter_async_context(Workers(settings, url))
            serving = await workers.serving()
            if settings.uses_embedded_store:
                serving.store = EMBEDDED
            _announce(settings, serving, is_worker=False)
            return await workers.run(stop, *watching)
    except EmbeddedStoreError as error:
        typer.echo(f"fleetplane: {error}", err=True)
        return EXIT_FAILED
    except ChildProcessError as error:
        typer.echo(f"fleetplane: {error}", err=True)
        return EXIT_FAILED
