"""Which entries of the audit somebody wants to see."""

from dataclasses import dataclass
from typing import Final

ANYTHING: Final = "*"
"""Stands for any characters, none included, in a pattern."""


def matches(pattern: str, text: str) -> bool:
    """Return whether `text` is what `pattern` says; takes time proportional to both lengths."""
    head, *rest = pattern.split(ANYTHING)
    if not rest:
        return text == pattern
    tail = rest.pop()
    if len(text) < len(head) + len(tail) or not text.startswith(head) or not text.endswith(tail):
        return False
    at, end = len(head), len(text) - len(tail)
    for part in rest:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """What must hold of an entry; empty: anything.

    Attributes:
        actor: Pattern of who did it.
        method: Pattern of the method, such as `Update*`.
        object_prefix: With what the object begins.
        event: Pattern of the event, such as `agent.*`.
    """

    actor: str = ""
    method: str = ""
    object_prefix: str = ""
    event: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether everything passes."""
        return not (self.actor or self.method or self.object_prefix or self.event)

    def passes(self, *, actor: str, method: str, subject: str, event: str) -> bool:
        """Return whether an entry with these fields is wanted; `subject` is its object."""
        return (
            (not self.actor or matches(self.actor, actor))
            and (not self.method or matches(self.method, method))
            and subject.startswith(self.object_prefix)
            and (not self.event or matches(self.event, event))
        )


EVERYTHING: Final = EventFilter()
