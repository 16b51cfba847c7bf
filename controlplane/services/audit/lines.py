r"""The lines of an exported audit, which verify without a daemon.

    {"audit":1,"namespace":"default","base":null}
    {"sequence":1,"at_ms":1790000000000,"entry":{"actor":"local-admin",...}}
    {"seal":{"first":1,"last":1,"previous":"..","head":"..","leaves":"..","key_id":""}}
    {"checkpoint":{"sequence":1,"head":".."}}

The bytes between `"entry":` and the last brace are those that are stored and sealed: whoever
verifies takes them as they are. An entry that somebody has damaged so that it is no line of JSON
comes as `{"sequence":..,"at_ms":..,"damaged":"<base64>"}`. A file that was resumed may hold
several headers and checkpoints.
"""

import base64
import binascii
import json
import re
from typing import Any, Final

from controlplane.domain.audit.chain import Seal, StoredEntry
from controlplane.domain.audit.keeping import Checkpoint
from controlplane.services.audit.encoding import decode_entry

FORMAT: Final = 1
"""Version of the lines."""

_ENTRY: Final = re.compile(
    rb'\{"sequence":(\d{1,20}),"at_ms":(\d{1,20}),"(entry|damaged)":(.*)\}', re.DOTALL
)

Line = StoredEntry | Seal | Checkpoint | tuple[str, Checkpoint | None]
"""What a line says; the pair is a header: whose audit it is, and where it begins."""


class NotALine(ValueError):
    """A line is none of an exported audit; says why."""


def header_line(namespace: str, base: Checkpoint | None) -> bytes:
    """Return the first line."""
    return _line({"audit": FORMAT, "namespace": namespace, "base": base and _checkpoint(base)})


def entry_line(entry: StoredEntry) -> bytes:
    """Return the line of an entry."""
    head = b'{"sequence":%d,"at_ms":%d,' % (entry.sequence, entry.at_ms)
    is_one_line = b"\n" not in entry.data and b"\r" not in entry.data
    if is_one_line and decode_entry(entry.data) is not None:
        return head + b'"entry":' + entry.data + b"}\n"
    return head + b'"damaged":"' + base64.b64encode(entry.data) + b'"}\n'


def seal_line(seal: Seal) -> bytes:
    """Return the line of a seal."""
    return _line(
        {
            "seal": {
                "first": seal.first,
                "last": seal.last,
                "previous": seal.previous.hex(),
                "head": seal.head.hex(),
                "leaves": seal.leaves.hex(),
                "key_id": seal.key_id,
            }
        }
    )


def checkpoint_line(checkpoint: Checkpoint) -> bytes:
    """Return the last line."""
    return _line({"checkpoint": _checkpoint(checkpoint)})


def read_line(line: bytes) -> Line:
    """Return what a line says, without its line feed.

    Raises:
        NotALine: it is none of ours.
    """
    found = _ENTRY.fullmatch(line)
    try:
        if found is not None:
            return _read_entry(*found.groups())
        return _read_object(json.loads(line))
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error) as error:
        raise NotALine(f"is not a line of an exported audit: {error}") from None


def _read_entry(sequence: bytes, at_ms: bytes, kind: bytes, data: bytes) -> StoredEntry:
    if kind == b"damaged":
        data = base64.b64decode(data[1:-1], validate=True)
    return StoredEntry(sequence=int(sequence), at_ms=int(at_ms), data=data)


def _read_object(said: dict[str, Any]) -> Line:
    if "seal" in said:
        seal = said["seal"]
        return Seal(
            first=int(seal["first"]),
            last=int(seal["last"]),
            previous=bytes.fromhex(seal["previous"]),
            head=bytes.fromhex(seal["head"]),
            leaves=bytes.fromhex(seal["leaves"]),
            key_id=str(seal["key_id"]),
        )
    if "checkpoint" in said:
        return _read_checkpoint(said["checkpoint"])
    if said.get("audit") != FORMAT:
        raise ValueError("neither entry, seal nor checkpoint")
    base = said["base"]
    return str(said["namespace"]), None if base is None else _read_checkpoint(base)


def _read_checkpoint(said: dict[str, Any]) -> Checkpoint:
    return Checkpoint(sequence=int(said["sequence"]), head=bytes.fromhex(said["head"]).hex())


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"sequence": checkpoint.sequence, "head": checkpoint.head}


def _line(said: dict[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
