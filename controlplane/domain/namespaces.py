"""Namespaces as objects, and their quotas."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class NamespaceState(StrEnum):
    """Where a namespace is in its life."""

    ACTIVE = "ACTIVE"
    TERMINATING = "TERMINATING"


class Quota(StrEnum):
    """What is bounded; each is a field of `Quotas` and of the contract."""

    AGENTS = "agents"
    INSTANCES = "instances"
    STREAMS = "streams"
    WATCHES = "watches"
    POLICIES = "policies"
    CONFIG_BYTES = "config_bytes"
    WAITING_TASKS = "waiting_tasks"
    CALLS_PER_SECOND = "calls_per_second"
    PROMPTS = "prompts"
    PROMPT_BYTES = "prompt_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Bounds of a namespace; 0: none but the daemon's own."""

    agents: int = 0
    instances: int = 0
    streams: int = 0
    watches: int = 0
    policies: int = 0
    config_bytes: int = 0
    waiting_tasks: int = 0
    calls_per_second: int = 0
    prompts: int = 0
    prompt_bytes: int = 0

    def of(self, quota: Quota) -> int:
        """Return one bound by its name."""
        bound: int = getattr(self, quota.value)
        return bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A tenant.

    Attributes:
        name: 1-63 of [a-z0-9-].
        description: What it is for.
        labels: Labels of its owners.
        quotas: Its bounds.
        state: Where it is in its life.
        created_by: Who made it; empty: it came into being by its first use.
        created_at_ms: When; filled in by the ledger.
        updated_at_ms: Of its last change; filled in by the ledger.
        revision: Of its last change; filled in by the ledger.
    """

    name: str
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    quotas: Quotas = Quotas()
    state: NamespaceState = NamespaceState.ACTIVE
    created_by: str = ""
    created_at_ms: int = 0
    updated_at_ms: int = 0
    revision: int = 0
