"""What tasks carry: payload, checkpoint and result, read from the ledger when somebody needs them.

They are up to 256 KiB each, so no replica holds all of them: `UNFOLLOWED` in `transaction`.
Payloads never change, therefore those used lately are remembered.
"""

from collections import OrderedDict
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from controlplane.services.ports import Collection, Ledger

PAYLOAD_MEMORY_BYTES: Final = 64 * 1_024 * 1_024
"""Bytes of payloads remembered by a replica: 256 of the largest, or some 100,000 usual ones."""

_ENTRY_BYTES: Final = 256
"""Bytes that an entry costs besides its payload, so that small ones cannot be countless."""


class TaskPart(StrEnum):
    """What a task carries."""

    PAYLOAD = "payload"
    CHECKPOINT = "checkpoint"
    RESULT = "result"


def data_key(task_id: str, part: TaskPart) -> str:
    """Return the key of a part in `Collection.TASK_DATA`."""
    return f"{task_id}/{part}"


class TaskData:
    """Reads parts of tasks. Belongs to one event loop."""

    def __init__(self, ledger: Ledger, *, memory_bytes: int = PAYLOAD_MEMORY_BYTES) -> None:
        """Read from `ledger`; remember payloads of at most `memory_bytes`."""
        self._ledger = ledger
        self._memory_bytes = memory_bytes
        self._payloads: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._held_bytes = 0

    async def payload(self, namespace: str, task_id: str) -> bytes:
        """Return what was submitted; empty if that was empty, or if the task is gone."""
        key = namespace, task_id
        known = self._payloads.get(key)
        if known is not None:
            self._payloads.move_to_end(key)
            return known
        (payload,) = await self.read(namespace, task_id, (TaskPart.PAYLOAD,))
        if payload:
            self.remember(namespace, task_id, payload)
        return payload

    async def checkpoint(self, namespace: str, task_id: str) -> bytes:
        """Return the last checkpoint; empty if there is none."""
        (checkpoint,) = await self.read(namespace, task_id, (TaskPart.CHECKPOINT,))
        return checkpoint

    async def read(self, namespace: str, task_id: str, parts: Sequence[TaskPart]) -> list[bytes]:
        """Return parts of a task in one round trip, in order; empty where there is none."""
        keys = [data_key(task_id, part) for part in parts]
        records = await self._ledger.read(namespace, Collection.TASK_DATA, keys)
        return [record.value if record is not None else b"" for record in records]

    def remember(self, namespace: str, task_id: str, payload: bytes) -> None:
        """Keep a committed payload at hand; those used least lately make room."""
        key = namespace, task_id
        cost = len(payload) + _ENTRY_BYTES
        if key in self._payloads or cost > self._memory_bytes:
            return
        self._payloads[key] = payload
        self._held_bytes += cost
        while self._held_bytes > self._memory_bytes:
            _, oldest = self._payloads.popitem(last=False)
            self._held_bytes -= len(oldest) + _ENTRY_BYTES
