"""Which policies decide for an agent: the live ones, or those of the staged candidate."""

from controlplane.domain.policies import PolicySet
from controlplane.services.read_model import NamespaceView


def rules_for(view: NamespaceView, agent_id: str) -> PolicySet:
    """Return what decides for one agent; whoever decides asks this, never the view itself.

    The same on every replica that has followed as far. Without a stage it costs one comparison.
    """
    staged = view.staged_set
    if staged is None:
        return view.policy_set
    stage = view.stage
    return staged if stage is not None and stage.decides_for(agent_id) else view.policy_set
