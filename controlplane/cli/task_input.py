"""What goes into tasks and comes out of them: bytes, from and to files and pipes."""

import sys
from pathlib import Path
from typing import Final

from controlplane.cli.outcomes import WrongInput

MAX_PAYLOAD: Final = 256 * 1024
"""Bytes of a payload at most, by contract."""


def read_payload(text: str) -> bytes:
    """Return what `--payload` means: a text, `@file`, or `-` for standard input.

    A text that begins with `@` or is `-` itself is given in a file.

    Raises:
        WrongInput: the file cannot be read, or there is more than a task may carry.
    """
    if text == "-":
        content = sys.stdin.buffer.read(MAX_PAYLOAD + 1)
    elif text.startswith("@"):
        try:
            with Path(text[1:]).open("rb") as file:
                content = file.read(MAX_PAYLOAD + 1)
        except OSError as error:
            raise WrongInput(f"--payload {text}: {error.strerror}") from error
    else:
        content = text.encode()
    if len(content) > MAX_PAYLOAD:
        raise WrongInput(f"--payload: more than {MAX_PAYLOAD:,} bytes, which is the most")
    return content


def write_bytes(content: bytes) -> None:
    """Write a result to standard output as it came; on a terminal with a newline at its end."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    if sys.stdout.isatty() and not content.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def readable(content: bytes) -> str:
    """Return content for a terminal: text as it is, line by line, else its size."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return f"({len(content):,} bytes that are not text)"
    if all(line.isprintable() for line in text.replace("\t", " ").splitlines()):
        return text
    return f"({len(content):,} bytes that are not printable)"
