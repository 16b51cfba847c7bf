"""`fleetplane audit`: who did what, and the proof that nobody changed the record of it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from controlplane.cli.call import Globals, Output, command
from controlplane.cli.durations import duration
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_event, write_value
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from controlplane.domain.audit.keeping import Checkpoint
    from fleetplane import FleetClient
    from fleetplane.v1 import audit_service_pb2 as pb

SYSTEM: Final = "@system"

app = typer.Typer(
    **PLAIN,
    help="Who did what to what, and why; sealed, so that nobody can change it unnoticed.",
)

System = Annotated[
    bool,
    typer.Option(
        "--system", help="The audit of rights, credentials and namespaces, which are in none."
    ),
]
Actor = Annotated[
    str, typer.Option("--actor", metavar="PATTERN", help="Who did it, such as 'user:*'.")
]
Method = Annotated[
    str, typer.Option("--method", metavar="PATTERN", help="What was called, such as 'Update*'.")
]
Object = Annotated[
    str, typer.Option("--object", metavar="PREFIX", help="What was changed, such as agents/.")
]
Event = Annotated[
    str, typer.Option("--event", metavar="PATTERN", help="What happened, such as 'agent.*'.")
]
ExportFile = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="An exported audit.")
]
Why = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")]


@command(
    app,
    "tail",
    examples=(
        "fleetplane audit tail",
        "fleetplane audit tail --follow --event 'policy.*'",
        "fleetplane audit tail --actor 'user:*' --since 2h -o json",
        "fleetplane audit tail --system --event call.refused",
    ),
)
async def tail(
    call: Globals,
    *,
    actor: Actor = "",
    method: Method = "",
    object_prefix: Object = "",
    event: Event = "",
    since: Annotated[
        float | None,
        typer.Option(
            "--since", parser=duration, metavar="DURATION", help="All of so long, such as 2h."
        ),
    ] = None,
    lines: Annotated[
        int, typer.Option("--lines", metavar="NUMBER", min=0, help="Newest entries to show.")
    ] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens from now on.")
    ] = False,
    system: System = False,
) -> None:
    """Show the newest entries, oldest first; with --follow also those to come.

    Nothing is left out: after an interruption it goes on where it was.
    """
    place = SYSTEM if system else ""
    wanted: dict[str, Any] = {
        "actor": actor,
        "method": method,
        "object_prefix": object_prefix,
        "event": event,
        "namespace": place,
    }
    async with call.client() as client:
        begin = (await client.get_audit_status(namespace=place)).last_sequence
        for one in await _newest(client, wanted, begin, lines, since):
            _write_event(call.output, one)
        if not follow:
            return
        async with client.watch_audit_events(after_sequence=begin, **wanted) as watch:
            async for one in watch:
                _write_event(call.output, one)


async def _newest(
    client: "FleetClient", wanted: dict[str, Any], through: int, lines: int, since: float | None
) -> "list[pb.AuditEvent]":
    """Return the newest entries, oldest first: of a time, or so many."""
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415  # not for help

    before = through + 1
    if since is not None:
        moment = datetime.now(UTC) - timedelta(seconds=since)
        wanted = wanted | {"since": moment}
    elif lines == 0:
        return []
    found: list[pb.AuditEvent] = []
    async for one in client.list_audit_events(before_sequence=before, **wanted):
        found.append(one)
        if since is None and len(found) == lines:
            break
    return found[::-1]


def _write_event(output: Output, event: "pb.AuditEvent") -> None:
    from controlplane.cli.audit_views import event_line  # noqa: PLC0415  # imports the SDK

    if output is Output.TABLE:
        write(event_line(event))
    else:
        write_event(output, as_dict(event))


@command(
    app, "status", examples=("fleetplane audit status", "fleetplane audit status --system -o json")
)
async def status(call: Globals, *, system: System = False) -> None:
    """Show how far the audit reaches, is sealed, was exported and trimmed."""
    async with call.client() as client:
        found = await client.get_audit_status(namespace=SYSTEM if system else "")
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(found))
        return
    from controlplane.cli.audit_views import status_view  # noqa: PLC0415  # imports the SDK

    write(status_view(found))


@command(
    app,
    "verify",
    examples=(
        "fleetplane audit verify",
        "fleetplane audit verify --expect-head 1842:5f0c...",
        "fleetplane audit verify --file audit.jsonl --audit-key audit.key",
    ),
)
async def verify(
    call: Globals,
    *,
    expect_head: Annotated[
        str,
        typer.Option(
            "--expect-head",
            metavar="[SEQUENCE:]HEAD",
            help="A checkpoint of an earlier time: the audit must hold it.",
        ),
    ] = "",
    file: ExportFile = None,
    audit_key: Annotated[
        Path | None,
        typer.Option("--audit-key", metavar="FILE", help="Keys that a --file was sealed with."),
    ] = None,
    require_key: Annotated[
        bool, typer.Option("--require-key", help="Fail where seals were made without a key.")
    ] = False,
    system: System = False,
) -> None:
    """Prove that no entry was altered, removed or inserted; with --file without a daemon.

    Exit code 1: something is wrong, and the first entry is named. Keep the checkpoint that is
    printed out of reach of who can write the store, and expect it the next time.
    """
    from controlplane.cli.audit_views import (  # noqa: PLC0415  # imports the SDK
        problem_text,
        verification_of,
        verification_view,
    )

    expected = _checkpoint(expect_head) if expect_head else None
    if file is not None:
        from controlplane.cli.audit_files import verify_file  # noqa: PLC0415  # not for help

        result = verification_of(verify_file(file, _keys(audit_key), expected))
    elif audit_key is not None:
        raise WrongInput("--audit-key is for --file: the daemon has its own")
    else:
        async with call.client() as client:
            result = await client.verify_audit(
                expected_head="" if expected is None else expected.head,
                expected_sequence=0 if expected is None else expected.sequence,
                namespace=SYSTEM if system else "",
            )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(result))
    if result.HasField("problem"):
        raise CommandFailed(problem_text(result.problem))
    if call.output is Output.TABLE:
        write(verification_view(result))
    if require_key and (result.keyless_through or not result.verified.sequence):
        raise CommandFailed(f"seals through entry {result.keyless_through} were made without a key")


@command(
    app,
    "export",
    examples=(
        "fleetplane audit export audit.jsonl",
        "fleetplane audit export audit.jsonl --resume --confirm",
        "fleetplane audit export --system rights.jsonl",
    ),
)
async def export(
    call: Globals,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to: lines of JSON.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a file of an earlier export.")
    ] = False,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm", help="Tell the daemon that it is in safety: retention may go on."
        ),
    ] = False,
    reason: Why = "",
    system: System = False,
) -> None:
    """Write everything that is sealed to a file, which `audit verify --file` proves by itself.

    The file is on the disk when this ends. An export that broke off goes on with --resume.
    """
    from controlplane.cli.audit_files import end_of_file  # noqa: PLC0415  # not for help

    place = SYSTEM if system else call.namespace
    end = end_of_file(file) if resume and file.exists() else None
    if end is not None and end.namespace != place:
        raise WrongInput(f"{file} holds the audit of {end.namespace}, not of {place}")
    async with call.client() as client:
        after, size = (0, 0) if end is None else (end.sequence, end.size)
        checkpoint = await _write_export(client, file, place, after, size, fresh=not resume)
        if confirm and checkpoint.sequence:
            await client.confirm_audit_export(
                checkpoint.sequence, checkpoint.head, reason=reason, namespace=place
            )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(checkpoint))
        return
    from controlplane.cli.audit_views import checkpoint_text  # noqa: PLC0415  # imports the SDK

    write(f"exported through {checkpoint_text(checkpoint)}")
    if not confirm:
        note("--confirm tells the daemon; without it no entry is ever let go by its age")


async def _write_export(
    client: "FleetClient", file: Path, namespace: str, after: int, size: int, *, fresh: bool
) -> "pb.AuditCheckpoint":
    """Write an export behind the first `size` bytes of a file; return its checkpoint."""
    try:
        target = file.open("xb" if fresh else "ab")
    except FileExistsError:
        raise WrongInput(f"{file} is there already", hint="--resume goes on with it") from None
    except OSError as error:
        raise WrongInput(f"cannot write {file}: {error.strerror}") from None
    with target:
        target.truncate(size)
        async with client.export_audit(after_sequence=after, namespace=namespace) as pieces:
            async for piece in pieces:
                if not isinstance(piece, bytes):
                    checkpoint = piece
                else:
                    target.write(piece)
        target.flush()
        os.fsync(target.fileno())
    return checkpoint


@command(
    app,
    "trim",
    examples=(
        "fleetplane audit trim --file audit.jsonl --reason 'in the vault'",
        "fleetplane audit trim --checkpoint 1842:5f0c... --reason 'in the vault'",
    ),
)
async def trim(
    call: Globals,
    *,
    file: ExportFile = None,
    audit_key: Annotated[
        Path | None,
        typer.Option("--audit-key", metavar="FILE", help="Keys that the file was sealed with."),
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint", metavar="SEQUENCE:HEAD", help="Through where, instead of a file."
        ),
    ] = "",
    reason: Why = "",
    system: System = False,
) -> None:
    """Remove exported entries for good; the audit says that you did.

    The file is verified first, and the daemon compares its last head with its own.
    """
    if (file is None) == (not checkpoint):
        raise WrongInput("say --file or --checkpoint")
    if file is not None:
        from controlplane.cli.audit_files import verify_file  # noqa: PLC0415  # not for help

        result = verify_file(file, _keys(audit_key))
        place = SYSTEM if system else call.namespace
        if result.problem is not None:
            raise CommandFailed(f"{file}: entry {result.problem.sequence}: {result.problem.detail}")
        if result.namespace != place:
            raise WrongInput(f"{file} holds the audit of {result.namespace}, not of {place}")
        through = result.verified
    else:
        through = _checkpoint(checkpoint)
    async with call.client() as client:
        trimmed = await client.trim_audit(
            through.sequence, through.head, reason=reason, namespace=SYSTEM if system else ""
        )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(trimmed))
    else:
        write(f"{trimmed.removed} entries are gone; it begins with entry {trimmed.first_sequence}")


def _checkpoint(text: str) -> "Checkpoint":
    """Read `SEQUENCE:HEAD`, or a head alone."""
    from controlplane.domain.audit.keeping import Checkpoint  # noqa: PLC0415  # not for help

    sequence, _, head = text.strip().rpartition(":")
    is_hex = len(head) == 64 and all(c in "0123456789abcdef" for c in head.lower())  # noqa: PLR2004 - SHA-256
    if not is_hex or not (sequence.isdecimal() or not sequence):
        raise WrongInput(f"{text!r} is not SEQUENCE:HEAD, the head in 64 hexadecimal digits")
    return Checkpoint(sequence=int(sequence or 0), head=head.lower())


def _keys(path: Path | None) -> Any:
    from controlplane.credentials.audit_keys import read_audit_keys  # noqa: PLC0415  # not for help
    from controlplane.credentials.files import CredentialFileError  # noqa: PLC0415  # same

    try:
        return read_audit_keys(path)
    except CredentialFileError as error:
        raise WrongInput(str(error)) from None
