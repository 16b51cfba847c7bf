"""The read model: every replica's copy of the ledger in memory, served without a store round trip.

One writer (the follower) patches it between two awaits; readers run in the same event loop and
therefore always see whole commits. Beats change it too, in `LiveInstance`, without a revision.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.domain.agents import Agent, Instance
from controlplane.domain.configs import BASE_SCHEMA, ConfigLayer, ConfigSchema
from controlplane.domain.configs.extra_schema import ExtraSchema
from controlplane.domain.configs.extra_validator import CompiledExtraSchema
from controlplane.domain.errors import NotReady
from controlplane.domain.policies import OnError, Policy, PolicySet
from controlplane.domain.policy_sets.candidates import STAGE_KEY, PolicyStage
from controlplane.domain.policy_sets.history import HEAD_KEY, PolicyHead
from controlplane.domain.policy_settings import NO_DEFAULTS, SETTINGS_KEY, PolicyDefaults
from controlplane.services.access.view import ACCESS_COLLECTIONS, AccessView
from controlplane.services.agent_index import AgentIndex
from controlplane.services.governance_view import GOVERNANCE_COLLECTIONS, GovernanceView
from controlplane.services.hub import (
    Hub,
    access_topic,
    agent_topic,
    agents_topic,
    layer_topic,
    namespace_topic,
    policies_topic,
)
from controlplane.services.live_instances import AgentEntry, LiveInstance, carry_over
from controlplane.services.ports import Collection, Position, Touched
from controlplane.services.work_view import WorkView

MAX_WAIT_FOR_REVISION_SECONDS = 5.0
"""Bound of a read-your-writes wait when the call's own deadline is longer: followers lag by
milliseconds, so a longer wait means that the revision was never written."""


@dataclass(slots=True)
class Changes:
    """What a patch changed; watchers are woken by it."""

    agent_ids: set[str] = field(default_factory=set)
    layer_keys: set[str] = field(default_factory=set)
    policies: bool = False
    topics: set[str] = field(default_factory=set)
    """What else to wake: tasks, routes, drains, stops, rollouts."""
    holders: set[str] = field(default_factory=set)
    """Instances whose leases changed."""


class NamespaceView:
    """Everything known about one namespace."""

    def __init__(self, name: str, defaults: PolicyDefaults = NO_DEFAULTS) -> None:
        self.name = name
        self.position = Position()
        self.agents: dict[str, AgentEntry] = {}
        self.instances: dict[str, LiveInstance] = {}
        self.agent_id_of: dict[str, str] = {}
        """name@version -> agent_id"""
        self.ids_of_name: dict[str, set[str]] = {}
        """agent name -> agent_ids of its versions"""
        self.index = AgentIndex()
        self.layers: dict[str, ConfigLayer] = {}
        self.extra_schema: ExtraSchema | None = None
        """What the namespace registered for `extra`; None: never anything."""
        self._config_schema: ConfigSchema | None = BASE_SCHEMA
        """None: `extra_schema` was not compiled yet."""
        self.work = WorkView(name)
        self.governance = GovernanceView(name)
        self.access = AccessView()
        """Empty but in the system namespace."""
        self.loads_changed = False
        """Whether leases came or went since `load_version` last grew."""
        self.policies: dict[str, Policy] = {}
        self._policy_defaults = defaults
        self.policy_set = PolicySet.compile(
            (), revision=0, default_effect=defaults.effect, on_missing=defaults.on_missing
        )
        self.stage: PolicyStage | None = None
        """The candidate that is being tried; None: there is none."""
        self.staged_set: PolicySet | None = None
        """What decides where the candidate does; None: the live set everywhere."""
        self._staged: tuple[PolicySet, PolicyStage | None, int] = (self.policy_set, None, 0)
        """What `stage` and `staged_set` were made from."""
        self.agents_revision = 0
        """Revision of the last change of an agent or instance: version of cached answers."""
        self.load_version = 0
        """Grows when the load of any instance changed; at most once per flush tick."""
        self._orphans: dict[str, dict[str, LiveInstance]] = {}
        """agent_id -> instances that were loaded before their agent"""

    def apply(self, touched: Iterable[Touched], position: Position) -> Changes:
        """Bring records to their newest state and move on to `position`."""
        changes = Changes()
        policy_puts: list[Policy] = []
        policy_deletes: list[str] = []
        for item in touched:
            value = item.record.value if item.record is not None else None
            if item.collection is not Collection.POLICIES:
                self._apply_record(item.collection, item.key, value, changes)
                continue
            changes.policies = True
            if value is None:
                policy_deletes.append(item.key)
                self.policies.pop(item.key, None)
            else:
                policy_puts.append(value)
                self.policies[item.key] = value
        self._follow_policies(policy_puts, policy_deletes, position, changes)
        if changes.agent_ids:
            self.agents_revision = position.revision
        self._count_leases(changes.holders)
        self.index.journal.note(changes.agent_ids, position.revision)
        self.position = position
        return changes

    def _follow_policies(
        self,
        put: Sequence[Policy],
        delete: Sequence[str],
        position: Position,
        changes: Changes,
    ) -> None:
        """Bring what decides up to date: the live set, and the one of the staged candidate."""
        tables = self.governance
        head: PolicyHead | None = tables.table(Collection.POLICY_STAGES).get(HEAD_KEY)
        revision = self.policy_set.revision
        if head is not None:
            revision = head.revision
        elif changes.policies:
            revision = position.revision  # written by a release that kept no head
        rules = self.policy_set
        if put or delete or revision != rules.revision:
            rules = rules.with_changes(
                put=put, delete=delete, revision=revision, on_error=OnError.QUARANTINE
            )
        settings = tables.table(Collection.POLICY_SETTINGS).get(SETTINGS_KEY)
        effect, on_missing = self._policy_defaults.under(settings)
        if (rules.default_effect, rules.on_missing) != (effect, on_missing):
            rules = rules.with_defaults(
                default_effect=effect, on_missing=on_missing, revision=revision
            )
        staged = (
            rules,
            tables.table(Collection.POLICY_STAGES).get(STAGE_KEY),
            tables.version(Collection.POLICY_CANDIDATES),
        )
        if staged != self._staged:
            self._staged, self.policy_set = staged, rules
            self.stage, self.staged_set = self._stage()

    def _stage(self) -> tuple[PolicyStage | None, PolicySet | None]:
        _, stage, _ = self._staged
        if stage is None:
            return None, None
        candidate = self.governance.table(Collection.POLICY_CANDIDATES).get(stage.candidate_id)
        if candidate is None:  # loaded later, or unreadable here: nobody is decided for by it
            return stage, None
        return stage, candidate.rules(self.policy_set, self.staged_set)

    def _count_leases(self, instance_ids: Iterable[str]) -> None:
        for instance_id in instance_ids:
            live = self.instances.get(instance_id)
            if live is not None:
                live.held = len(self.work.tasks.held_by(instance_id))
                self.loads_changed = True

    def _apply_record(self, collection: Collection, key: str, value: Any, changes: Changes) -> None:
        match collection:
            case Collection.AGENTS:
                self._apply_agent(key, value, changes)
            case Collection.INSTANCES:
                self._apply_instance(key, value, changes)
            case Collection.CONFIG_LAYERS:
                self._apply_layer(key, value, changes)
            case Collection.CONFIG_SCHEMAS:
                self.extra_schema, self._config_schema = value, None
            case Collection.NAMES | Collection.POLICIES | Collection.TASK_DATA:
                pass
            case _ if collection in ACCESS_COLLECTIONS:
                self.access.apply(collection, key, value)
                changes.topics.add(access_topic())
            case _ if collection in GOVERNANCE_COLLECTIONS:
                self.governance.apply(collection, key, value, changes.topics)
            case _:
                self.work.apply(collection, key, value, changes.topics, changes.holders)

    def config_schema(self) -> ConfigSchema:
        """Return what configuration is checked against here, compiled once per revision."""
        if self._config_schema is None:
            document = self.extra_schema.document if self.extra_schema is not None else {}
            check = CompiledExtraSchema(document) if document else None
            self._config_schema = BASE_SCHEMA.with_extra(check)
        return self._config_schema

    def _apply_agent(self, agent_id: str, agent: Agent | None, changes: Changes) -> None:
        changes.agent_ids.add(agent_id)
        entry = self.agents.get(agent_id)
        if agent is None:
            if entry is not None:
                del self.agents[agent_id]
                self._forget_name(entry.agent)
                self.index.remove(entry.agent)
            return
        if entry is None:
            entry = self.agents[agent_id] = AgentEntry(agent)
            entry.instances.update(self._orphans.pop(agent_id, {}))
        else:
            self._forget_name(entry.agent)
            self.index.remove(entry.agent)
            entry.agent = agent
        self.agent_id_of[agent.spec.name_version] = agent_id
        self.ids_of_name.setdefault(agent.spec.name, set()).add(agent_id)
        self.index.add(agent)

    def _forget_name(self, agent: Agent) -> None:
        self.agent_id_of.pop(agent.spec.name_version, None)
        ids = self.ids_of_name.get(agent.spec.name)
        if ids is not None:
            ids.discard(agent.agent_id)
            if not ids:
                del self.ids_of_name[agent.spec.name]

    def _apply_instance(
        self, instance_id: str, instance: Instance | None, changes: Changes
    ) -> None:
        live = self.instances.get(instance_id)
        if live is not None:
            changes.agent_ids.add(live.instance.agent_id)
        if instance is None:
            if live is not None:
                del self.instances[instance_id]
                self._detach(live)
            return
        changes.agent_ids.add(instance.agent_id)
        if live is None:
            live = self.instances[instance_id] = LiveInstance(instance)
            changes.holders.add(instance_id)
        elif live.instance.generation != instance.generation:
            self._detach(live)
            live.begin_generation(instance)
        else:
            live.instance = instance
        owner = self.agents.get(instance.agent_id)
        if owner is None:
            # A batch of a full load may hold the instance before its agent.
            self._orphans.setdefault(instance.agent_id, {})[instance_id] = live
        else:
            owner.instances[instance_id] = live

    def _detach(self, live: LiveInstance) -> None:
        instance = live.instance
        owner = self.agents.get(instance.agent_id)
        held = self._orphans.get(instance.agent_id) if owner is None else owner.instances
        if held is not None:
            held.pop(instance.instance_id, None)

    def _apply_layer(self, key: str, layer: ConfigLayer | None, changes: Changes) -> None:
        changes.layer_keys.add(key)
        if layer is None:
            self.layers.pop(key, None)
        else:
            self.layers[key] = layer


class ReadModel:
    """All namespaces of this replica, and the waits on them."""

    def __init__(self, hub: Hub, *, policy_defaults: PolicyDefaults = NO_DEFAULTS) -> None:
        self.hub = hub
        self.ready = False
        """False until the first complete load."""
        self.confirmed_at = 0.0
        """When the store last answered, in monotonic seconds of this replica: the copy is no older
        than that, but for the time a change takes to arrive. 0: never."""
        self.policy_defaults = policy_defaults
        """What holds where a namespace sets nothing."""
        self._views: dict[str, NamespaceView] = {}
        self._no_access = AccessView()
        """While nothing was ever written about rights and credentials."""

    def view(self, namespace: str) -> NamespaceView:
        """Return the view of a namespace; an empty one for a namespace nobody wrote to.

        Raises:
            NotReady: this replica has not loaded its first snapshot yet.
        """
        view = self._views.get(namespace)
        if view is None:
            if not self.ready:
                raise NotReady
            return NamespaceView(namespace, self.policy_defaults)
        return view

    @property
    def access(self) -> AccessView:
        """Rights and credentials as this replica knows them.

        Raises:
            NotReady: this replica has not loaded its first snapshot yet.
        """
        view = self._views.get(SYSTEM_NAMESPACE)
        if view is not None:
            return view.access
        if not self.ready:
            raise NotReady
        return self._no_access

    def confirm(self, now: float) -> None:
        """Note that the store has answered, at `now` monotonic seconds."""
        self.confirmed_at = now

    def views(self) -> Mapping[str, NamespaceView]:
        """Return every namespace that holds something."""
        return self._views

    def position_of(self, namespace: str) -> Position | None:
        """Return how far a namespace was followed; None if it was never loaded."""
        view = self._views.get(namespace)
        return None if view is None else view.position

    def new_view(self, namespace: str) -> NamespaceView:
        """Return an empty view to load into, aside of the one that serves."""
        return NamespaceView(namespace, self.policy_defaults)

    def swap(self, fresh: NamespaceView) -> None:
        """Serve a freshly loaded view. What beats said is carried over; everybody is woken."""
        old = self._views.get(fresh.name)
        if old is not None:
            for instance_id, live in fresh.instances.items():
                known = old.instances.get(instance_id)
                if known is not None and known.instance.generation == live.instance.generation:
                    carry_over(known, live)
            fresh.load_version = old.load_version + 1
        self._views[fresh.name] = fresh
        self.hub.notify_namespace(fresh.name)

    def patch(self, namespace: str, touched: Sequence[Touched], position: Position) -> None:
        """Apply what the follower caught up with and wake the watchers it concerns."""
        view = self._views[namespace]
        self._wake(view, view.apply(touched, position))

    def _wake(self, view: NamespaceView, changes: Changes) -> None:
        name = view.name
        topics = [namespace_topic(name)]
        if changes.agent_ids:
            topics.append(agents_topic(name))
            topics.extend(agent_topic(name, agent_id) for agent_id in changes.agent_ids)
        topics.extend(layer_topic(name, key) for key in changes.layer_keys)
        if changes.policies:
            topics.append(policies_topic(name))
        topics.extend(changes.topics)
        self.hub.notify(topics)

    async def at_least(self, namespace: str, revision: int) -> NamespaceView:
        """Return the view once it has reached `revision` (read your writes).

        Raises:
            NotReady: it did not within 5 s, or nothing is loaded yet.
        """
        view = self.view(namespace)
        if view.position.revision >= revision:
            return view
        try:
            async with asyncio.timeout(MAX_WAIT_FOR_REVISION_SECONDS):
                with self.hub.subscribe((namespace_topic(namespace),)) as news:
                    while (view := self.view(namespace)).position.revision < revision:
                        await news.wait()
        except TimeoutError:
            raise NotReady(
                f"this replica has reached revision {view.position.revision}, not {revision}"
            ) from None
        return view
