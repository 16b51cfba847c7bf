"""What a replica knows about governance in one namespace: approvals, prompts, experiments."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from controlplane.services.hub import governance_topic, governed_topic
from controlplane.services.transaction import Collection

GOVERNANCE_COLLECTIONS: Final = frozenset(
    {
        Collection.POLICY_SETTINGS,
        Collection.POLICY_CANDIDATES,
        Collection.POLICY_STAGES,
        Collection.APPROVALS,
        Collection.OPEN_APPROVALS,
        Collection.STANDING_GRANTS,
        Collection.WEBHOOK_OUTBOX,
        Collection.PROMPTS,
        Collection.PROMPT_VERSIONS,
        Collection.PROMPT_PINS,
        Collection.EVALUATIONS,
        Collection.EXPERIMENTS,
        Collection.ACTIVE_EXPERIMENTS,
    }
)

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class GovernanceView:
    """Patched by the follower through `NamespaceView`, read by everybody else."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._tables: dict[Collection, dict[str, Any]] = {}
        self._versions: dict[Collection, int] = {}

    def table(self, collection: Collection) -> Mapping[str, Any]:
        """Return all records of a collection by key; do not change it."""
        return self._tables.get(collection, _NOTHING)

    def version(self, collection: Collection) -> int:
        """Return a number that grows with every change of the collection, for what is derived."""
        return self._versions.get(collection, 0)

    def apply(self, collection: Collection, key: str, value: Any, topics: set[str]) -> None:
        """Bring one record to its newest state (None: it is gone); add whom to wake."""
        table = self._tables.setdefault(collection, {})
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
        self._versions[collection] = self.version(collection) + 1
        topics.add(governance_topic(self._namespace, collection))
        topics.add(governed_topic(self._namespace, collection, key))
