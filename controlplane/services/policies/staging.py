"""Which policies decide for an agent: the live ones, or the staged candidate for its bucket."""

from controlplane.domain.policies import PolicySet
from controlplane.services.read_model import NamespaceView


def rules_for(view: NamespaceView, agent_id: str) -> PolicySet:  # noqa: ARG001 - the contract
    """Return what decides for one agent; whoever decides asks this, never the view itself."""
    return view.policy_set
