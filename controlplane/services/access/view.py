"""What a replica knows about rights and credentials: its copy of the system namespace."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from controlplane.domain.access.permissions import EVERYWHERE
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
        self._patterns: dict[str, dict[str, RoleBinding]] = {}
        """namespace (or `*`) -> binding_id -> binding whose subject is a pattern"""
        self._held: dict[tuple[Collection, str], dict[str, Any]] = {}
        """what is kept, and the namespace that it is about -> key -> record"""

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
                self._apply_held(collection, self.api_tokens, key, value)
            case Collection.JOIN_TOKENS:
                self._apply_held(collection, self.join_tokens, key, value)
            case Collection.BANS:
                self._apply_held(collection, self.bans, key, value)
            case _:
                raise ValueError(f"{collection} says nothing about access")

    def held_in(self, collection: Collection, namespace: str) -> Mapping[str, Any]:
        """Return the bindings, tokens or bans of one namespace (`*`: those that hold everywhere).

        By key; costs the same however many there are in others. Not to be kept.
        """
        return self._held.get((collection, namespace), _NOTHING)

    def patterns_in(self, namespace: str) -> int:
        """Return how many bindings of a namespace have a pattern as their subject."""
        return len(self._patterns.get(namespace, _NOTHING))

    def bindings_of(
        self, subjects: Iterable[str], namespace: str | None = None
    ) -> list[RoleBinding]:
        """Return the bindings of a caller known by these subjects, expired ones included.

        With a namespace, patterns of others are not even looked at, so that a tenant with many of
        them costs nobody else anything; what comes back may hold other bindings of others still.
        """
        places = self._patterns if namespace is None else (namespace, EVERYWHERE)
        patterns = [self._patterns[place] for place in places if place in self._patterns]
        found: dict[str, RoleBinding] = {}
        for subject in subjects:
            found.update(self._exact.get(subject, _NONE))
            for some in patterns:
                found.update(
                    (key, binding)
                    for key, binding in some.items()
                    if matches(binding.subject, subject)
                )
        return list(found.values())

    def ban_of(self, namespace: str, agent_name: str) -> Ban | None:
        """Return the ban of an agent name, if there is one."""
        return self.bans.get(ban_key(namespace, agent_name))

    def _apply_binding(self, key: str, binding: RoleBinding | None) -> None:
        old = self.bindings.get(key)
        if old is not None:
            if is_pattern(old.subject):
                _drop(self._patterns, old.namespace, key)
            else:
                _drop(self._exact, old.subject, key)
        self._apply_held(Collection.ROLE_BINDINGS, self.bindings, key, binding)
        if binding is None:
            return
        if is_pattern(binding.subject):
            self._patterns.setdefault(binding.namespace, {})[key] = binding
        else:
            self._exact.setdefault(binding.subject, {})[key] = binding

    def _apply_held(
        self, collection: Collection, records: dict[str, Any], key: str, value: Any
    ) -> None:
        old = records.get(key)
        if old is not None:
            _drop(self._held, (collection, old.namespace), key)
        _set(records, key, value)
        if value is not None:
            self._held.setdefault((collection, value.namespace), {})[key] = value


_NONE: Final[Mapping[str, RoleBinding]] = {}
_NOTHING: Final[Mapping[str, Any]] = {}

_Place = TypeVar("_Place")


def _drop(index: dict[_Place, dict[str, Any]], place: _Place, key: str) -> None:
    """Take a key out of an index, and its place with it if nothing is left there."""
    some = index.get(place)
    if some is not None:
        some.pop(key, None)
        if not some:
            del index[place]


def _set(records: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        records.pop(key, None)
    else:
        records[key] = value
