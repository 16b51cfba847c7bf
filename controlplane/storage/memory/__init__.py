"""The store inside this process: every port, real semantics, gone when the process ends.

`MemoryStore` holds the state; `MemoryLedger`, `MemoryChangeFeed`, `MemoryBeatLog`, `MemoryAuditLog`
and `MemoryDecisionLog` are the ports on it. Several of each may share one store, as replicas share
one Redis.
"""

from controlplane.storage.memory.audit_log import MemoryAuditLog
from controlplane.storage.memory.beat_log import MemoryBeatLog
from controlplane.storage.memory.change_feed import MemoryChangeFeed
from controlplane.storage.memory.decision_log import MemoryDecisionLog
from controlplane.storage.memory.ledger import MemoryLedger
from controlplane.storage.memory.store import MemoryStore

__all__ = [
    "MemoryAuditLog",
    "MemoryBeatLog",
    "MemoryChangeFeed",
    "MemoryDecisionLog",
    "MemoryLedger",
    "MemoryStore",
]
