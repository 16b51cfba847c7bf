"""How many approvals fit into one message: some are a hundred times as large as others."""

import json
from collections.abc import Iterator, Sequence
from typing import Final

from controlplane.domain.approvals.model import Approval

PART_BYTES: Final = 2 * 1024 * 1024
"""Of the approvals of one message, as estimated: half of what clients commonly accept, so that an
estimate may be wrong and the last one large."""

_LINE_BYTES: Final = 1_024  # of a record, without its comment
_FIXED_BYTES: Final = 4_096  # all that does not grow with the action and the record
_SPELLINGS: Final = 3  # an action is shown as it was sent, and as the text that is hashed


def bytes_of(approval: Approval) -> int:
    """Return how large an approval is as a message, roughly and rather too much."""
    context = len(json.dumps(dict(approval.action.context)))
    record = sum(_LINE_BYTES + len(entry.comment.encode()) for entry in approval.entries)
    return _FIXED_BYTES + _SPELLINGS * context + record


def fitting(approvals: Sequence[Approval], most: int) -> int:
    """Return how many of the first `most` approvals fit into a message; at least one."""
    used = 0
    for count, approval in enumerate(approvals[:most]):
        used += bytes_of(approval)
        if count and used > PART_BYTES:
            return count
    return min(len(approvals), most)


def parts_of(approvals: Sequence[Approval], most: int) -> Iterator[tuple[Approval, ...]]:
    """Yield approvals in their order, as many at a time as fit, and never more than `most`."""
    start = 0
    while start < len(approvals):
        end = start + fitting(approvals[start : start + most], most)
        yield tuple(approvals[start:end])
        start = end
