"""What prompts ask of experiments. `services/experiments` answers; without it, nobody runs one."""

from dataclasses import dataclass
from typing import Protocol

from controlplane.services.read_model import NamespaceView


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptVariant:
    """What an experiment gives to a unit: a version of the prompt."""

    experiment: str
    variant: str
    version: int
    phase: int = 0
    """Phase of the experiment that it is of; 0: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptUse:
    """A prompt that is used now.

    Attributes:
        prompt: Which prompt.
        version: Which version; 0: none, the program used its fallback.
        content_sha256: Digest of what is sent.
        agent_name: Who uses it; empty: nobody in particular.
        session_id: In which conversation.
        experiment: Experiment that it was resolved with; empty: none.
        variant: And the variant.
        phase: And the phase; 0: not known.
    """

    prompt: str
    version: int
    content_sha256: str
    agent_name: str
    session_id: str
    experiment: str
    variant: str
    phase: int = 0


class PromptExperiments(Protocol):
    """Experiments whose subject is a prompt."""

    def is_active(self, view: NamespaceView, prompt: str) -> bool:
        """Return whether one runs, so that versions differ by unit."""

    def assign(
        self, view: NamespaceView, prompt: str, *, agent_name: str, unit: str
    ) -> PromptVariant | None:
        """Return the variant of a unit; None: go on as if there were no experiment."""

    async def exposed(self, namespace: str, use: PromptUse) -> bool:
        """Record that a unit has seen a variant; return whether there was anything to record."""
