"""Prompts without experiments."""

from controlplane.services.prompts.ports import PromptUse, PromptVariant
from controlplane.services.read_model import NamespaceView


class NoExperiments:
    """Where nobody runs any."""

    def is_active(self, view: NamespaceView, prompt: str) -> bool:
        """Return False."""
        del view, prompt
        return False

    def assign(
        self, view: NamespaceView, prompt: str, *, agent_name: str, unit: str
    ) -> PromptVariant | None:
        """Return None."""
        del view, prompt, agent_name, unit
        return None

    async def exposed(self, namespace: str, use: PromptUse) -> bool:
        """Record nothing."""
        del namespace, use
        return False
