"""The core of WatchConfig: per scope the newest configuration, in order, once, never lost.

Subscribe first, then read, then wait (so no change falls between). What a watcher holds is a
position: a scope is sent when its configuration is newer than that, and it then holds the position
of the read. Wake-ups coalesce, so a slow watcher gets the latest and never a backlog.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace

from controlplane.domain.configs import EffectiveConfig, LayerKind, LayerScope
from controlplane.services.configs import Configs, layer_keys
from controlplane.services.hub import Hub, Subscription, agent_topic, layer_topic
from controlplane.services.ports import Position
from controlplane.services.read_model import NamespaceView, ReadModel

BOOKMARK_SECONDS = 15.0
"""Silence after which a watcher is told how far it is: well below the 30 s of keepalive proxies."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a watcher holds of one scope."""

    epoch: str = ""
    revision: int = 0
    digest: str = ""


@dataclass(slots=True)
class WatchedScope:
    """One scope of a stream and how far it was sent."""

    scope: LayerScope
    held: Held | None
    layer_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigUpdate:
    """Scopes that share a configuration, and that configuration."""

    scopes: tuple[LayerScope, ...]
    config: EffectiveConfig
    position: Position
    synced: bool = False


@dataclass(frozen=True, slots=True)
class ConfigBookmark:
    """Everything up to the position was sent; `synced` once, when nothing was left to send."""

    position: Position
    synced: bool = False


class _Ears:
    """Which topics concern which scope of a stream."""

    def __init__(
        self, hub: Hub, news: Subscription, namespace: str, scopes: Sequence[WatchedScope]
    ) -> None:
        self._hub = hub
        self._news = news
        self._namespace = namespace
        self._scopes = scopes
        self._by_topic: dict[str, set[int]] = {}

    def listen(self, indexes: Iterable[int], view: NamespaceView) -> None:
        """Listen to the layers that these scopes are made of today."""
        for index in indexes:
            watched = self._scopes[index]
            keys = layer_keys(view, watched.scope)
            if keys == watched.layer_keys:
                continue
            watched.layer_keys = keys
            topics = [layer_topic(self._namespace, key) for key in keys]
            if watched.scope.kind is LayerKind.AGENT_ID:
                # Its name, and with it a layer, is known only once it is registered.
                topics.append(agent_topic(self._namespace, watched.scope.target))
            for topic in topics:
                self._by_topic.setdefault(topic, set()).add(index)
            self._hub.extend(self._news, topics)

    def touched_by(self, topics: Iterable[str]) -> list[int]:
        """Return the scopes that these topics concern."""
        return sorted({i for topic in topics for i in self._by_topic.get(topic, ())})


class ConfigWatch:
    """Watches scopes of one namespace for one stream."""

    def __init__(self, read_model: ReadModel, hub: Hub, configs: Configs, namespace: str) -> None:
        self._read_model = read_model
        self._hub = hub
        self._configs = configs
        self._namespace = namespace

    async def events(
        self,
        wanted: Sequence[tuple[LayerScope, Held | None]],
        *,
        bookmark_seconds: float = BOOKMARK_SECONDS,
    ) -> AsyncIterator[ConfigUpdate | ConfigBookmark]:
        """Yield updates and bookmarks for ever.

        Raises:
            NotReady: nothing is loaded yet.
        """
        scopes = [WatchedScope(scope, held) for scope, held in wanted]
        with self._hub.subscribe(()) as news:
            ears = _Ears(self._hub, news, self._namespace, scopes)
            view = self._read_model.view(self._namespace)
            everything = range(len(scopes))
            ears.listen(everything, view)
            updates = self._collect(view, scopes, everything)
            for number, update in enumerate(updates, start=1):
                yield replace(update, synced=number == len(updates))
            if not updates:
                yield ConfigBookmark(view.position, synced=True)
            while True:
                topics = await _next_topics(news, bookmark_seconds)
                view = self._read_model.view(self._namespace)
                if topics is None:
                    yield ConfigBookmark(view.position)
                    continue
                touched = ears.touched_by(topics)
                ears.listen(touched, view)
                for update in self._collect(view, scopes, touched):
                    yield update

    def _collect(
        self, view: NamespaceView, scopes: Sequence[WatchedScope], touched: Sequence[int]
    ) -> list[ConfigUpdate]:
        """Return what has to be sent, grouped by configuration, and note it as sent."""
        position = view.position
        groups: dict[int, tuple[EffectiveConfig, list[LayerScope]]] = {}
        for index in touched:
            watched = scopes[index]
            config = self._configs.effective(view, watched.scope)
            if is_newer(config, position, watched.held):
                groups.setdefault(id(config), (config, []))[1].append(watched.scope)
                watched.held = Held(position.epoch, position.revision, config.digest)
        return [
            ConfigUpdate(tuple(members), config, position) for config, members in groups.values()
        ]


def is_newer(config: EffectiveConfig, position: Position, held: Held | None) -> bool:
    """Return whether a watcher that holds `held` must be sent `config`, read at `position`.

    Revisions compare only within one epoch; across epochs (a store that was restored, a namespace
    that was first written to) the digest decides. A replica that lags behind what the watcher
    already has says nothing until it has caught up.
    """
    if held is None:
        return True
    if held.epoch != position.epoch:
        return held.digest != config.digest
    if config.revision > held.revision:
        return True
    caught_up = position.revision >= held.revision
    return bool(held.digest) and held.digest != config.digest and caught_up


async def _next_topics(news: Subscription, seconds: float) -> set[str] | None:
    """Return the topics that changed, or None after so much silence."""
    try:
        async with asyncio.timeout(seconds):
            return await news.wait()
    except TimeoutError:
        return None
