"""How requests about experiments are refused.

Part of the tree in `controlplane/domain/errors.py`.
"""

from controlplane.domain.errors import AlreadyExists, FailedPrecondition, NotFound


class ExperimentNotFound(NotFound):
    """No such experiment."""

    reason = "EXPERIMENT_NOT_FOUND"

    def __init__(self, key: str) -> None:
        super().__init__(f"no experiment {key!r}", {"experiment": key})


class ExperimentExists(AlreadyExists):
    """The key is taken."""

    reason = "EXPERIMENT_EXISTS"

    def __init__(self, key: str) -> None:
        super().__init__(f"experiment {key!r} already exists", {"experiment": key})


class ExperimentActive(FailedPrecondition):
    """Another experiment runs on the same subject."""

    reason = "EXPERIMENT_ACTIVE"

    def __init__(self, key: str, subject: str) -> None:
        """Say that experiment `key` runs on `subject`, such as `PROMPT/greeting`."""
        super().__init__(f"experiment {key!r} runs on {subject}", {"experiment": key})


class NotExposed(NotFound):
    """The unit has seen nothing of this phase: its outcomes say nothing about it."""

    reason = "NOT_EXPOSED"

    def __init__(self, unit: str) -> None:
        super().__init__(f"unit {unit!r} was not exposed to this phase", {"unit": unit})
