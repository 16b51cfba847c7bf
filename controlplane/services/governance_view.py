"""What a replica knows about governance in one namespace: approvals, prompts, experiments."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from controlplane.domain.approvals.model import Approval
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
        self._asked_for: dict[str, str] = {}
        """decision_id -> the approval that it opened."""

    def table(self, collection: Collection) -> Mapping[str, Any]:
        """Return all records of a collection by key; do not change it."""
        return self._tables.get(collection, _NOTHING)

    def version(self, collection: Collection) -> int:
        """Return a number that grows with every change of the collection, for what is derived."""
        return self._versions.get(collection, 0)

    def approval_of(self, decision_id: str) -> Approval | None:
        """Return the approval that a decision opened; None: it opened none, or that is gone."""
        approval_id = self._asked_for.get(decision_id)
        approvals: Mapping[str, Approval] = self.table(Collection.APPROVALS)
        return None if approval_id is None else approvals.get(approval_id)

    def apply(self, collection: Collection, key: str, value: Any, topics: set[str]) -> None:
        """Bring one record to its newest state (None: it is gone); add whom to wake."""
        table = self._tables.setdefault(collection, {})
        if value is None:
            gone = table.pop(key, None)
            if collection is Collection.APPROVALS and gone is not None:
                self._asked_for.pop(gone.decision_id, None)
        else:
            table[key] = value
            if collection is Collection.APPROVALS and value.decision_id:
                self._asked_for[value.decision_id] = key
        self._versions[collection] = self.version(collection) + 1
        topics.add(governance_topic(self._namespace, collection))
        topics.add(governed_topic(self._namespace, collection, key))
