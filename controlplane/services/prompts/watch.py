"""The core of WatchPrompts: per prompt where its labels are, and the content that they need.

Like `config_watch`: subscribe, read, wait; wake-ups coalesce, so a slow watcher gets the latest and
never a backlog. What a watcher holds of a prompt is the digest of all that it was told.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from controlplane.domain.prompts.model import LATEST, PRODUCTION, Label, PromptVersion
from controlplane.services.config_watch import BOOKMARK_SECONDS, Held
from controlplane.services.hub import Hub, Subscription, governance_topic, governed_topic
from controlplane.services.ports import Collection, Position
from controlplane.services.prompts.catalogue import find_version, prompts_of
from controlplane.services.prompts.ports import PromptExperiments
from controlplane.services.read_model import NamespaceView, ReadModel

_DIGEST_BYTES: Final = 16
"""Tells apart the states of one prompt; not a defence against forgery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What one stream is about.

    Attributes:
        prompts: Names, each with what the watcher holds (None: nothing).
        agent_name: Whose label is sent as well; empty: nobody's.
        labels: Which other labels besides `production`.
    """

    prompts: Mapping[str, Held | None]
    agent_name: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptState:
    """Where the labels of a prompt are, as one watcher sees it."""

    labels: Mapping[str, Label] = field(default_factory=dict)
    agent_label: str = ""
    experiment_active: bool = False
    exists: bool = False
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptUpdate:
    """What a watcher is told of one prompt; see the contract."""

    prompt: str
    state: PromptState
    snapshot: bool
    labels: Mapping[str, Label]
    removed_labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromptEvent:
    """One message: content, an update, or (neither) a bookmark."""

    position: Position
    content: PromptVersion | None = None
    update: PromptUpdate | None = None
    synced: bool = False


class PromptWatch:
    """Watches prompts of one namespace for one stream."""

    def __init__(
        self, read_model: ReadModel, hub: Hub, experiments: PromptExperiments, namespace: str
    ) -> None:
        self._read_model = read_model
        self._hub = hub
        self._experiments = experiments
        self._namespace = namespace

    async def events(
        self, wanted: Wanted, *, bookmark_seconds: float = BOOKMARK_SECONDS
    ) -> AsyncIterator[PromptEvent]:
        """Yield contents, updates and bookmarks for ever.

        Raises:
            NotReady: nothing is loaded yet.
        """
        told = _Told(wanted)
        with self._hub.subscribe(self._topics(wanted.prompts)) as news:
            view = self._read_model.view(self._namespace)
            first = list(self._news(view, told, tuple(wanted.prompts)))
            for number, event in enumerate(first, start=1):
                yield replace(event, synced=number == len(first))
            if not first:
                yield PromptEvent(view.position, synced=True)
            names = {
                governed_topic(self._namespace, Collection.PROMPTS, name): name
                for name in wanted.prompts
            }
            while True:
                topics = await _next_topics(news, bookmark_seconds)
                view = self._read_model.view(self._namespace)
                if topics is None:
                    yield PromptEvent(view.position)
                    continue
                touched = [names[topic] for topic in topics if topic in names]
                if len(touched) < len(topics):
                    touched = list(wanted.prompts)  # an experiment: it may be about any of them
                for event in self._news(view, told, touched):
                    yield event

    def _topics(self, names: Mapping[str, object]) -> Iterator[str]:
        for name in names:
            yield governed_topic(self._namespace, Collection.PROMPTS, name)
        yield governance_topic(self._namespace, Collection.EXPERIMENTS)

    def _news(
        self, view: NamespaceView, told: "_Told", names: Sequence[str]
    ) -> Iterator[PromptEvent]:
        """Yield what has to be sent about some prompts, and note it as sent."""
        position = view.position
        for name in names:
            state = self._state(view, name, told.wanted)
            if not told.is_news(name, state, position):
                continue
            for version in told.missing(name, state):
                yield PromptEvent(position, content=find_version(view, name, version))
            yield PromptEvent(position, update=told.tell(name, state, position))

    def _state(self, view: NamespaceView, name: str, wanted: Wanted) -> PromptState:
        prompt = prompts_of(view).get(name)
        if prompt is None:
            return PromptState(digest="absent")
        own = prompt.agent_labels.get(wanted.agent_name, "") if wanted.agent_name else ""
        labels = {
            key: label
            for key in dict.fromkeys((PRODUCTION, own, *wanted.labels))
            if key and (label := prompt.label(key)) is not None
        }
        if LATEST in labels:
            labels[LATEST] = replace(labels[LATEST], revision=prompt.revision)
        is_active = self._experiments.is_active(view, name)
        parts = [own, str(is_active)]
        for key, label in sorted(labels.items()):
            digest = find_version(view, name, label.version).content_sha256
            parts.append(f"{key}={label.version}={digest}")
        return PromptState(
            labels=labels,
            agent_label=own,
            experiment_active=is_active,
            exists=True,
            digest=hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[: 2 * _DIGEST_BYTES],
        )


class _Told:
    """What a watcher knows."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._held: dict[str, Held | None] = dict(wanted.prompts)
        self._states: dict[str, PromptState] = {}
        """As told on this stream, or held from an earlier one and still right."""
        self._contents: dict[str, set[int]] = {}

    def is_news(self, name: str, state: PromptState, position: Position) -> bool:
        """Return whether a state must be sent.

        A replica that lags behind what the watcher has says nothing until it has caught up.
        """
        held = self._held[name]
        if held is None:
            return True
        if held.digest == state.digest:
            if name not in self._states:
                # Held from an earlier stream: what changes next is told as a difference.
                self._states[name] = state
                self._contents[name] = {one.version for one in state.labels.values()}
            return False
        return held.epoch != position.epoch or position.revision >= held.revision

    def missing(self, name: str, state: PromptState) -> list[int]:
        """Return the versions whose content the watcher needs and has not been sent here."""
        known = self._contents.setdefault(name, set())
        wanted = {one.version for one in state.labels.values()}
        fresh = sorted(wanted - known)
        # What no label is at any more, the watcher need not keep; then it is sent again.
        self._contents[name] = wanted
        return fresh

    def tell(self, name: str, state: PromptState, position: Position) -> PromptUpdate:
        """Return the update, and note that it is sent."""
        before = self._states.get(name)
        self._states[name] = state
        self._held[name] = Held(position.epoch, position.revision, state.digest)
        if before is None or not before.exists:
            return PromptUpdate(
                prompt=name, state=state, snapshot=True, labels=state.labels, removed_labels=()
            )
        changed = {
            key: label
            for key, label in state.labels.items()
            if key not in before.labels or before.labels[key].version != label.version
        }
        gone = tuple(sorted(before.labels.keys() - state.labels.keys()))
        return PromptUpdate(
            prompt=name, state=state, snapshot=False, labels=changed, removed_labels=gone
        )


async def _next_topics(news: Subscription, seconds: float) -> set[str] | None:
    """Return the topics that changed, or None after so much silence."""
    try:
        async with asyncio.timeout(seconds):
            return await news.wait()
    except TimeoutError:
        return None
