"""Audit entries as the bytes that are stored, sealed and exported: compact JSON on one line.

Fields are in a fixed order. One that is added later comes last and has a default, so that older
entries keep their bytes and can be read.
"""

from typing import Final

import msgspec

from controlplane.services.transaction import AuditEntry

_encode: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(AuditEntry)


def encode_entry(entry: AuditEntry) -> bytes:
    """Return the bytes of an entry."""
    return _encode(entry)


def decode_entry(data: bytes) -> AuditEntry | None:
    """Return the entry in these bytes; None if they are no entry: somebody has damaged them."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
