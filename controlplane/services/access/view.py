"""What a replica knows about rights and credentials: its copy of the system namespace."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Final

from controlplane.domain.access.records import (
    ApiToken,
    Ban,
    JoinToken,
    RoleBinding,
    TokenUse,
    ban_key,
)
from controlplane.domain.access.subjects import is_pattern, matches
from controlplane.domain.namespaces import Namespace
from controlplane.services.transaction import Collection

ACCESS_COLLECTIONS: Final = frozenset(
    {
        Collection.NAMESPACES,
        Collection.ROLE_BINDINGS,
        Collection.API_TOKENS,
        Collection.TOKEN_USES,
        Collection.JOIN_TOKENS,
        Collection.BANS,
    }
)

_versions: Final = itertools.count(1)
"""Never the same twice in a process, so that no verdict outlives a view that was loaded anew."""


class AccessView:
    """Patched by the follower through `NamespaceView`, read by everybody else."""

    def __init__(self) -> None:
        self.version = next(_versions)
        """Another one after every change; verdicts are remembered under it."""
        self.namespaces: dict[str, Namespace] = {}
        self.bindings: dict[str, RoleBinding] = {}
        """binding_id -> binding"""
        self.api_tokens: dict[str, ApiToken] = {}
        self.token_uses: dict[str, TokenUse] = {}
        self.join_tokens: dict[str, JoinToken] = {}
        self.bans: dict[str, Ban] = {}
        """records.ban_key -> ban"""
        self._exact: dict[str, dict[str, RoleBinding]] = {}
        """subject -> binding_id -> binding"""
        self._patterns: dict[str, RoleBinding] = {}
        """binding_id -> binding whose subject is a pattern"""

    def apply(self, collection: Collection, key: str, value: Any) -> None:
        """Bring one record to its newest state (None: it is gone)."""
        if collection is Collection.TOKEN_USES:
            _set(self.token_uses, key, value)  # no verdict depends on it
            return
        self.version = next(_versions)
        match collection:
            case Collection.NAMESPACES:
                _set(self.namespaces, key, value)
            case Collection.ROLE_BINDINGS:
                self._apply_binding(key, value)
            case Collection.API_TOKENS:
                _set(self.api_tokens, key, value)
            case Collection.JOIN_TOKENS:
                _set(self.join_tokens, key, value)
            case Collection.BANS:
                _set(self.bans, key, value)
            case _:
                raise ValueError(f"{collection} says nothing about access")

    def bindings_of(self, subjects: Iterable[str]) -> list[RoleBinding]:
        """Return the bindings of a caller known by these subjects, expired ones included."""
        found: dict[str, RoleBinding] = {}
        for subject in subjects:
            found.update(self._exact.get(subject, _NONE))
            found.update(
                (key, binding)
                for key, binding in self._patterns.items()
                if matches(binding.subject, subject)
            )
        return list(found.values())

    def ban_of(self, namespace: str, agent_name: str) -> Ban | None:
        """Return the ban of an agent name, if there is one."""
        return self.bans.get(ban_key(namespace, agent_name))

    def _apply_binding(self, key: str, binding: RoleBinding | None) -> None:
        old = self.bindings.pop(key, None)
        if old is not None:
            self._patterns.pop(key, None)
            same = self._exact.get(old.subject)
            if same is not None:
                same.pop(key, None)
                if not same:
                    del self._exact[old.subject]
        if binding is None:
            return
        self.bindings[key] = binding
        if is_pattern(binding.subject):
            self._patterns[key] = binding
        else:
            self._exact.setdefault(binding.subject, {})[key] = binding


_NONE: Final[Mapping[str, RoleBinding]] = {}


def _set(records: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        records.pop(key, None)
    else:
        records[key] = value
