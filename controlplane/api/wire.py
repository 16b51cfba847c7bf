"""The two pieces of protobuf's wire format that ready-made bytes are put together with."""

from typing import Final

_LENGTH_DELIMITED: Final = 2
"""Wire type of text, bytes and messages."""

_ONE_BYTE: Final = 0x80
"""Varints below this are one byte."""


def varint(number: int) -> bytes:
    """Return a non-negative number as protobuf's varint."""
    if number < _ONE_BYTE:
        return _SHORT[number]
    encoded = bytearray()
    while number >= _ONE_BYTE:
        encoded.append(number & 0x7F | _ONE_BYTE)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_SHORT: Final = tuple(bytes((number,)) for number in range(_ONE_BYTE))


def length_delimited(field: int, content: bytes) -> bytes:
    """Return a field of text, bytes or a serialised message; `field` is its number, 1-15."""
    return tag_and_length(field, len(content)) + content


def tag_and_length(field: int, size: int) -> bytes:
    """Return what comes before `size` bytes of text, bytes or a message; `field` is 1-15."""
    return _SHORT[field << 3 | _LENGTH_DELIMITED] + varint(size)
