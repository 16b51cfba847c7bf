"""Which policies a request has to be judged by: those whose target is not FALSE.

Policies are filed by the literal actions and tools they can match, read from the target and from
top-level `eq`/`in` conditions on `action` and `tool`; the rest is residual. The candidates of one
(action, tool) pair are collected once and remembered: target globs depend on nothing else.
Correctness rule: only policies that would have answered FALSE may be left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from fleetplane_policy.compiled import ID_LEVEL, NAMESPACE_LEVEL, CompiledPolicy, Judged
from fleetplane_policy.truth import Condition

Entry = tuple[Condition, tuple[Judged, ...]]
"""What judging needs of a policy: its indexed test, and its judgement per value."""

Key = tuple[str | None, str | None]

PAIRS_REMEMBERED: Final = 16_384
"""(action, tool) pairs with collected candidates; beyond, collecting starts over."""

CANDIDATES_REMEMBERED: Final = 1_000_000
"""Candidates in all remembered pairs together: about 16 MB."""


class Candidates:
    """The policies of one (action, tool) pair; those of other agents cost nothing."""

    __slots__ = ("by_id", "by_name", "scoped", "shared", "size")

    def __init__(self, policies: Iterable[CompiledPolicy]) -> None:
        shared: list[Entry] = []
        by_id: defaultdict[str, list[Entry]] = defaultdict(list)
        by_name: defaultdict[str, list[Entry]] = defaultdict(list)
        for policy in policies:
            scope, entry = policy.policy.scope, (policy.indexed_test, policy.judgements)
            if policy.level == NAMESPACE_LEVEL:
                shared.append(entry)
            elif policy.level == ID_LEVEL:
                by_id[scope.agent_id].append(entry)
            else:
                by_name[scope.agent_name].append(entry)
        self.shared = tuple(shared)
        self.by_id = {agent: tuple(entries) for agent, entries in by_id.items()}
        self.by_name = {agent: tuple(entries) for agent, entries in by_name.items()}
        self.scoped = bool(by_id or by_name)
        self.size = len(shared) + sum(map(len, by_id.values())) + sum(map(len, by_name.values()))


class PolicyIndex:
    """An immutable filing of enabled policies; only its memory of collected candidates grows."""

    __slots__ = ("_files", "_remembered", "_size")

    def __init__(self, files: Mapping[Key, tuple[CompiledPolicy, ...]]) -> None:
        self._files = files
        self._remembered: dict[tuple[str, str], Candidates] = {}
        self._size = 0

    @classmethod
    def of(cls, policies: Iterable[CompiledPolicy]) -> "PolicyIndex":
        """File every enabled policy."""
        files: defaultdict[Key, list[CompiledPolicy]] = defaultdict(list)
        for policy in policies:
            for key in _keys(policy):
                files[key].append(policy)
        return cls({key: tuple(filed) for key, filed in files.items()})

    def with_changes(
        self, removed: Iterable[CompiledPolicy], added: Iterable[CompiledPolicy]
    ) -> "PolicyIndex":
        """Return an index with some policies exchanged; untouched files are shared."""
        files = dict(self._files)
        gone: defaultdict[Key, set[CompiledPolicy]] = defaultdict(set)
        for policy in removed:
            for key in _keys(policy):
                gone[key].add(policy)
        for key, policies in gone.items():
            left = tuple(p for p in files.get(key, ()) if p not in policies)
            if left:
                files[key] = left
            else:
                files.pop(key, None)
        for policy in added:
            for key in _keys(policy):
                files[key] = (*files.get(key, ()), policy)
        return PolicyIndex(files)

    def candidates(self, action: str, tool: str) -> Candidates:
        """Return the policies that may match this action with this tool."""
        found = self._remembered.get((action, tool))
        if found is None:
            found = Candidates(self._collect(action, tool))
            if (
                len(self._remembered) >= PAIRS_REMEMBERED
                or self._size + found.size > CANDIDATES_REMEMBERED
            ):
                self._remembered.clear()
                self._size = 0
            self._remembered[action, tool] = found
            self._size += found.size
        return found

    def _collect(self, action: str, tool: str) -> Iterator[CompiledPolicy]:
        for key in ((action, tool), (action, None), (None, tool), (None, None)):
            for policy in self._files.get(key, ()):
                if policy.covers(action, tool):
                    yield policy


def _keys(policy: CompiledPolicy) -> Iterator[Key]:
    """Where a policy is filed: once per literal pair, or under None for "any"."""
    if not policy.policy.enabled:
        return
    actions: Iterable[str | None] = (None,) if policy.actions is None else policy.actions
    tools: Iterable[str | None] = (None,) if policy.tools is None else policy.tools
    for action in actions:
        for tool in tools:
            yield action, tool
