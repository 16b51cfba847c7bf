"""What a batch is charged: as the calls that it stands for, less what it saves."""

from functools import cache
from typing import Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from controlplane.api.methods import Method, RateClass
from controlplane.domain.access.permissions import Permission

READ_ENTRIES: Final = 50
"""Entries of a batch that is answered from memory, for the price of one call: an entry takes 5 us
of the processor and a call 250."""

WRITE_ENTRIES: Final = 10
"""Entries of a batch that goes to the store, likewise: about 100 us of the 600 of a call, and the
round trip is shared."""


def cost_of(method: Method, entries: int) -> float:
    """Return how many calls a call is charged as: at least 1, and one for so many entries."""
    if method.rate_class is not RateClass.BATCH:
        return 1.0
    per_call = READ_ENTRIES if method.permission is Permission.READ else WRITE_ENTRIES
    return max(1.0, entries / per_call)


def entries_in(request: Message) -> int:
    """Return how many entries the lists of a request hold together."""
    return sum(len(getattr(request, name)) for name in _lists_of(request.DESCRIPTOR))


@cache
def _lists_of(descriptor: Descriptor) -> tuple[str, ...]:
    return tuple(field.name for field in descriptor.fields if field.is_repeated)
