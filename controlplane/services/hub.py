"""Wake-ups from the follower to watchers: hints, coalesced, never data.

A watcher subscribes BEFORE its first read, reads the current state, and waits. What it is told is
only which topics changed since it last looked; it then reads their newest state. A slow watcher
therefore never has a backlog: a topic that changed ten times is pending once.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from controlplane.domain.access.records import SYSTEM_NAMESPACE


class Subscription:
    """One watcher's ear; made by `Hub.subscribe`."""

    __slots__ = ("_pending", "_wake", "topics")

    def __init__(self, topics: set[str]) -> None:
        self.topics = topics
        self._pending: set[str] = set()
        self._wake = asyncio.Event()

    async def wait(self) -> set[str]:
        """Wait for news; return the topics that changed since the last call."""
        await self._wake.wait()
        return self.take()

    def take(self) -> set[str]:
        """Return the topics that changed since the last call, without waiting."""
        self._wake.clear()
        pending, self._pending = self._pending, set()
        return pending

    def tell(self, topic: str) -> None:
        """Note that a topic changed."""
        self._pending.add(topic)
        self._wake.set()


class Hub:
    """Topics and who listens to them. Belongs to one event loop."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Subscription]] = {}

    @contextmanager
    def subscribe(self, topics: Iterable[str]) -> Iterator[Subscription]:
        """Listen to topics for the duration of the context."""
        subscription = Subscription(set())
        self.extend(subscription, topics)
        try:
            yield subscription
        finally:
            self.withdraw(subscription, tuple(subscription.topics))

    def extend(self, subscription: Subscription, topics: Iterable[str]) -> None:
        """Listen to more topics."""
        for topic in topics:
            subscription.topics.add(topic)
            self._listeners.setdefault(topic, set()).add(subscription)

    def withdraw(self, subscription: Subscription, topics: Iterable[str]) -> None:
        """Stop listening to some topics."""
        for topic in topics:
            subscription.topics.discard(topic)
            listeners = self._listeners.get(topic)
            if listeners is not None:
                listeners.discard(subscription)
                if not listeners:
                    del self._listeners[topic]

    def notify(self, topics: Iterable[str]) -> None:
        """Wake everybody who listens to one of the topics."""
        for topic in topics:
            for subscription in self._listeners.get(topic, ()):
                subscription.tell(topic)

    def notify_namespace(self, namespace: str) -> None:
        """Wake everybody who listens to anything in a namespace: all of it may have changed."""
        prefix = f"{namespace}/"
        self.notify([topic for topic in self._listeners if topic.startswith(prefix)])

    @property
    def listener_count(self) -> int:
        """Number of distinct subscriptions; for metrics and leak tests."""
        return len({s for listeners in self._listeners.values() for s in listeners})


def access_topic() -> str:
    """Return the topic of rights, credentials, bans and namespaces."""
    return f"{SYSTEM_NAMESPACE}/access"


def agents_topic(namespace: str) -> str:
    """Return the topic of any change of any agent or instance in a namespace."""
    return f"{namespace}/agents"


def agent_topic(namespace: str, agent_id: str) -> str:
    """Return the topic of one agent's record."""
    return f"{namespace}/agent/{agent_id}"


def acknowledgements_topic(namespace: str) -> str:
    """Return the topic of what instances say about their configuration; no commit says it."""
    return f"{namespace}/acknowledgements"


def layer_topic(namespace: str, layer_key: str) -> str:
    """Return the topic of one configuration layer."""
    return f"{namespace}/config/{layer_key}"


def policies_topic(namespace: str) -> str:
    """Return the topic of any policy."""
    return f"{namespace}/policies"


def namespace_topic(namespace: str) -> str:
    """Return the topic of any commit in a namespace: its position moved."""
    return f"{namespace}/position"


def tasks_topic(namespace: str) -> str:
    """Return the topic of anything that may let a task be assigned or must end one."""
    return f"{namespace}/tasks"


def task_topic(namespace: str, task_id: str) -> str:
    """Return the topic of one task."""
    return f"{namespace}/task/{task_id}"


def instance_tasks_topic(namespace: str, instance_id: str) -> str:
    """Return the topic of the leases of one instance."""
    return f"{namespace}/instance-tasks/{instance_id}"


def routes_topic(namespace: str) -> str:
    """Return the topic of any route."""
    return f"{namespace}/routes"


def drain_topic(namespace: str, key: str) -> str:
    """Return the topic of one drain."""
    return f"{namespace}/drain/{key}"


def stops_topic(namespace: str) -> str:
    """Return the topic of any emergency stop: instances may have to be told."""
    return f"{namespace}/stops"


def stop_topic(namespace: str, stop_id: str) -> str:
    """Return the topic of one emergency stop and its acknowledgements."""
    return f"{namespace}/stop/{stop_id}"


def rollouts_topic(namespace: str) -> str:
    """Return the topic of any rollout."""
    return f"{namespace}/rollouts"


def rollout_topic(namespace: str, rollout_id: str) -> str:
    """Return the topic of one rollout."""
    return f"{namespace}/rollout/{rollout_id}"


def governance_topic(namespace: str, collection: str) -> str:
    """Return the topic of any record of one collection of `governance_view`."""
    return f"{namespace}/governance/{collection}"


def governed_topic(namespace: str, collection: str, key: str) -> str:
    """Return the topic of one record of one collection of `governance_view`."""
    return f"{namespace}/governance/{collection}/{key}"
