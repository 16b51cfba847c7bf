"""Reads the keys that the audit is sealed with."""

import base64
import binascii
import contextlib
from pathlib import Path

from controlplane.credentials.files import CredentialFileError, read_private
from controlplane.domain.audit.chain import LEAST_KEY_BYTES, Key, Keys


def read_audit_keys(path: Path | None) -> Keys:
    """Return the keys in a file; none without a file. Empty lines and comments (`#`) are skipped.

    Raises:
        CredentialFileError: it cannot be read, others can read it, or a line is no key of at least
            32 bytes in hex or base64.
    """
    if path is None:
        return Keys()
    lines = read_private(path).splitlines()
    secrets = [
        _secret(path, number, line.strip())
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.strip().startswith(b"#")
    ]
    if not secrets:
        raise CredentialFileError(f"{path} holds no key; openssl rand -hex 32 makes one")
    return Keys(Key.of(secret) for secret in secrets)


def _secret(path: Path, number: int, line: bytes) -> bytes:
    secret = b""
    try:
        secret = bytes.fromhex(line.decode("ascii"))
    except ValueError:
        with contextlib.suppress(binascii.Error, ValueError):
            secret = base64.b64decode(line, validate=True)
    if len(secret) < LEAST_KEY_BYTES:
        raise CredentialFileError(
            f"line {number} of {path} is no key of at least {LEAST_KEY_BYTES} bytes in hex or"
            " base64"
        )
    return secret
