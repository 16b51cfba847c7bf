"""What a replica knows about work in one namespace: tasks, routes, drains, stops, rollouts."""

from typing import Any

from controlplane.domain.drains import Drain, EmergencyStop, StopAcknowledgement
from controlplane.domain.rollouts.model import Rollout
from controlplane.domain.routes import Route, SessionPin
from controlplane.domain.tasks import TaskStream
from controlplane.services.hub import (
    drain_topic,
    instance_tasks_topic,
    rollout_topic,
    rollouts_topic,
    routes_topic,
    stop_topic,
    stops_topic,
    task_topic,
    tasks_topic,
)
from controlplane.services.tasks.index import TaskIndex
from controlplane.services.transaction import Collection


class WorkView:
    """Patched by the follower through `NamespaceView`, read by everybody else."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self.tasks = TaskIndex()
        self.task_streams: dict[str, TaskStream] = {}
        """instance_id -> its stream; only these instances are given tasks."""
        self.routes: dict[str, Route] = {}
        """agent name -> route"""
        self.pins: dict[str, SessionPin] = {}
        """routes.pin_key -> pin"""
        self.drains: dict[str, Drain] = {}
        """drains.drain_key -> drain"""
        self.stops: dict[str, EmergencyStop] = {}
        self.stop_acknowledgements: dict[str, dict[str, StopAcknowledgement]] = {}
        """stop_id -> instance_id -> acknowledgement"""
        self.rollouts: dict[str, Rollout] = {}
        self.active_rollouts: dict[str, str] = {}
        """agent name -> rollout_id"""
        self.version = 0
        """Grows when a route, a pin, a drain or a stop changed: version of answers that depend on
        them."""

    def apply(
        self, collection: Collection, key: str, value: Any, topics: set[str], holders: set[str]
    ) -> None:
        """Bring one record to its newest state (None: it is gone).

        Adds the topics of what changed to `topics`, and instances whose leases changed to
        `holders`.
        """
        namespace = self._namespace
        match collection:
            case Collection.TASKS:
                changed = self.tasks.apply(key, value)
                holders |= changed
                topics |= {task_topic(namespace, key), tasks_topic(namespace)}
                topics |= {instance_tasks_topic(namespace, one) for one in changed}
            case Collection.TASK_STREAMS:
                _set(self.task_streams, key, value)
                topics |= {tasks_topic(namespace), instance_tasks_topic(namespace, key)}
            case Collection.STOP_ACKNOWLEDGEMENTS:
                topics.add(stop_topic(namespace, self._answered(key, value)))
            case Collection.STOPS:
                _set(self.stops, key, value)
                self.version += 1
                topics |= {stop_topic(namespace, key), stops_topic(namespace)}
            case Collection.ROLLOUTS:
                _set(self.rollouts, key, value)
                topics |= {rollout_topic(namespace, key), rollouts_topic(namespace)}
            case Collection.ACTIVE_ROLLOUTS:
                _set(self.active_rollouts, key, value)
                topics.add(rollouts_topic(namespace))
            case Collection.DRAINS:
                _set(self.drains, key, value)
                self.version += 1
                topics |= {drain_topic(namespace, key), tasks_topic(namespace)}
            case Collection.ROUTES:
                _set(self.routes, key, value)
                self.version += 1
                topics |= {routes_topic(namespace), tasks_topic(namespace)}
            case Collection.SESSION_PINS:
                _set(self.pins, key, value)
                self.version += 1
            case _:
                raise ValueError(f"{collection} is not about work")

    def _answered(self, key: str, value: StopAcknowledgement | None) -> str:
        """Take an answer to a stop; return which stop."""
        stop_id, _, instance_id = key.partition("/")
        answers = self.stop_acknowledgements.setdefault(stop_id, {})
        _set(answers, instance_id, value)
        if not answers:
            del self.stop_acknowledgements[stop_id]
        return stop_id


def _set(table: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
