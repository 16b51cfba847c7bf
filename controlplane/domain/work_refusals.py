"""How callers are refused about tasks, routes, drains, stops and rollouts.

Part of the tree in `controlplane/domain/errors.py`.
"""

from controlplane.domain.errors import FailedPrecondition, NotFound


class TaskNotFound(NotFound):
    """No task with that id, or it ended longer ago than tasks are kept."""

    reason = "TASK_NOT_FOUND"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"no task {task_id!r}", {"task_id": task_id})


class RouteNotFound(NotFound):
    """The agent name has no route."""

    reason = "ROUTE_NOT_FOUND"

    def __init__(self, agent_name: str) -> None:
        super().__init__(f"agent {agent_name!r} has no route", {"agent_name": agent_name})


class DrainNotFound(NotFound):
    """Nothing is or was drained there."""

    reason = "DRAIN_NOT_FOUND"

    def __init__(self, agent_id: str, instance_id: str = "") -> None:
        what = f"instance {instance_id!r}" if instance_id else f"agent {agent_id!r}"
        metadata = {"agent_id": agent_id, "instance_id": instance_id}
        super().__init__(f"{what} is not being drained", metadata)


class StopNotFound(NotFound):
    """No emergency stop with that id."""

    reason = "STOP_NOT_FOUND"

    def __init__(self, stop_id: str) -> None:
        super().__init__(f"no emergency stop {stop_id!r}", {"stop_id": stop_id})


class RolloutNotFound(NotFound):
    """No rollout with that id, or none of that agent."""

    reason = "ROLLOUT_NOT_FOUND"

    def __init__(self, *, rollout_id: str = "", agent_name: str = "") -> None:
        what = f"no rollout {rollout_id!r}" if rollout_id else f"no rollout of {agent_name!r}"
        super().__init__(what, {"rollout_id": rollout_id, "agent_name": agent_name})


class LeaseFenced(FailedPrecondition):
    """The lease of the task has ended: this caller must stop working on it."""

    reason = "LEASE_FENCED"

    def __init__(self, task_id: str, *, epoch: int, current: int, state: str) -> None:
        super().__init__(
            f"lease {epoch} of task {task_id!r} has ended: it is {state} at epoch {current}",
            {
                "task_id": task_id,
                "epoch": str(epoch),
                "current_epoch": str(current),
                "state": state,
            },
        )


class RolloutActive(FailedPrecondition):
    """A rollout of this agent is under way."""

    reason = "ROLLOUT_ACTIVE"

    def __init__(self, agent_name: str, rollout_id: str) -> None:
        super().__init__(
            f"rollout {rollout_id!r} of agent {agent_name!r} is under way",
            {"agent_name": agent_name, "rollout_id": rollout_id},
        )
