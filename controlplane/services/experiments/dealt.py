"""What is dealt to an agent, followed: SDKs compute variants from it without asking."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from controlplane.domain.experiments.dealing import is_for
from controlplane.domain.experiments.model import Experiment
from controlplane.services.hub import governance_topic
from controlplane.services.ports import Collection, Position
from controlplane.services.read_model import NamespaceView, ReadModel

BOOKMARK_SECONDS: Final = 15.0
"""Silence after which a watcher is told how far it is: well below the 30 s of keepalive proxies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealt:
    """Everything that runs and is for one agent, by key."""

    experiments: tuple[Experiment, ...]
    position: Position


def dealt_to(view: NamespaceView, agent_name: str) -> Dealt:
    """Return what is dealt to an agent; to everybody, if it has no name."""
    table = view.governance.table(Collection.EXPERIMENTS)
    running = sorted(
        (
            one
            for one in table.values()
            if one.running and (not agent_name or is_for(one, agent_name))
        ),
        key=lambda one: one.key,
    )
    return Dealt(experiments=tuple(running), position=view.position)


async def watch(
    read_model: ReadModel,
    namespace: str,
    *,
    agent_name: str,
    bookmark_seconds: float = BOOKMARK_SECONDS,
) -> AsyncGenerator[Dealt | Position, None]:
    """Yield all that is dealt to an agent, now and after every change; never ends.

    After 15 s of silence the position says that the stream is alive. Changes that come faster than
    they are taken are one; a conclusion alone is none.
    """
    told: tuple[object, ...] | None = None
    topic = governance_topic(namespace, Collection.EXPERIMENTS)
    with read_model.hub.subscribe((topic,)) as news:
        while True:
            dealt = dealt_to(read_model.view(namespace), agent_name)
            seen = tuple((one.key, one.generation, one.phases[-1]) for one in dealt.experiments)
            if seen != told:
                told = seen
                yield dealt
            try:
                async with asyncio.timeout(bookmark_seconds):
                    await news.wait()
            except TimeoutError:
                yield read_model.view(namespace).position
