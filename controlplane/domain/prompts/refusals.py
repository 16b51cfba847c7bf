"""How requests about prompts are refused. Part of the tree in `controlplane/domain/errors.py`."""

from controlplane.domain.errors import FailedPrecondition, NotFound


class PromptNotFound(NotFound):
    """No such prompt."""

    reason = "PROMPT_NOT_FOUND"

    def __init__(self, prompt: str) -> None:
        super().__init__(f"no prompt {prompt!r}", {"prompt": prompt})


class PromptVersionNotFound(NotFound):
    """The prompt has no such version."""

    reason = "PROMPT_VERSION_NOT_FOUND"

    def __init__(self, prompt: str, version: int) -> None:
        super().__init__(
            f"prompt {prompt!r} has no version {version}",
            {"prompt": prompt, "version": str(version)},
        )


class LabelNotFound(NotFound):
    """The prompt has no such label."""

    reason = "LABEL_NOT_FOUND"

    def __init__(self, prompt: str, label: str) -> None:
        super().__init__(
            f"prompt {prompt!r} has no label {label!r}", {"prompt": prompt, "label": label}
        )


class GateBlocked(FailedPrecondition):
    """The gate of the label did not pass."""

    reason = "GATE_BLOCKED"

    def __init__(self, prompt: str, label: str, verdict: str, why: str) -> None:
        super().__init__(
            f"the gate of label {label!r} of prompt {prompt!r} says {verdict}: {why}",
            {"prompt": prompt, "label": label, "verdict": verdict},
        )


class EvaluationNotFound(NotFound):
    """No such evaluation."""

    reason = "EVALUATION_NOT_FOUND"

    def __init__(self, what: str, evaluation_id: str = "") -> None:
        """Say that there is no `what`, such as `evaluation 'evl-1'`."""
        super().__init__(f"no {what}", {"evaluation_id": evaluation_id})


class NotComparable(FailedPrecondition):
    """The evaluations cannot be compared."""

    reason = "NOT_COMPARABLE"

    def __init__(self, why: str) -> None:
        super().__init__(f"the evaluations cannot be compared: {why}", {"why": why})
