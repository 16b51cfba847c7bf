"""The route that a rollout gives its agent name: who has which share in each phase."""

from controlplane.domain.rollouts.model import Phase, Rollout
from controlplane.domain.routes import WHOLE_BP, Route, Share


def route_of(rollout: Rollout) -> Route:
    """Return the route as the phase and the weight of a rollout want it.

    The new version comes first, so that a growing weight only adds sessions to it. The old one
    keeps a share of 0 at full weight while it is warm: it is who takes over if the new one falls
    silent. The salt is that of the rollout, so another rollout deals anew; once it has ended no
    cohort is left, and attempts no longer count for it.
    """
    new = Share(
        agent_id=rollout.to_agent_id, version=rollout.to_version, weight_bp=rollout.weight_bp
    )
    old = Share(
        agent_id=rollout.from_agent_id,
        version=rollout.from_version,
        weight_bp=WHOLE_BP - rollout.weight_bp,
    )
    shares: tuple[Share, ...] = (new, old) if new.weight_bp else (old,)
    if rollout.phase in {Phase.DRAINING_OLD, Phase.SUCCEEDED}:
        shares = (new,)
    return Route(
        name=rollout.name,
        shares=shares,
        salt=f"rollout:{rollout.name}:{rollout.rollout_id}",
        cohort="" if rollout.phase.is_terminal else rollout.cohort,
        set_by=rollout.started_by,
        reason=f"rollout {rollout.rollout_id} is {rollout.phase}",
    )
