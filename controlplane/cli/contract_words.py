"""Enums of the contract as words: `TASK_STATE_RUNNING` is RUNNING to people."""

from enum import IntEnum


def word(kind: type[IntEnum], number: int) -> str:
    """Return the short name of a member; empty for the unspecified one.

    Args:
        kind: an enum of the SDK, such as `TaskState`.
        number: the member; one that this release does not know reads as unspecified.
    """
    member = kind(number)
    return member.name if member.value else ""
