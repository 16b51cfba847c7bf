"""What a beat is answered, as far as the records decide it."""

from controlplane.domain.agents import (
    Activation,
    Agent,
    AgentStatus,
    Instance,
    InstanceState,
)
from controlplane.domain.drains import drain_key
from controlplane.services.beats import BeatOutcome, Outcome, Unusual
from controlplane.services.read_model import NamespaceView


def malformed(one: Unusual) -> BeatOutcome | None:
    """Return the answer to a beat that misses something; None if it is well-formed."""
    why = one.invalid
    if not one.beat.instance_id:
        why = "instance_id is required"
    elif not one.beat.generation:
        why = "generation is required"
    return BeatOutcome(one.beat.instance_id, Outcome.INVALID, why) if why else None


def refusal(view: NamespaceView, one: Unusual) -> BeatOutcome | None:
    """Return the answer to a beat that no commit could change; None if one has to be tried."""
    name, live = one.beat.instance_id, one.live
    answer = malformed(one)
    if answer is not None:
        return answer
    if live is None:
        # A goodbye of nobody may be the retry of one that was carried out: ask the ledger.
        return None if one.beat.goodbye else _unknown(view, name)
    answer = fenced(name, live.instance, one.beat.generation)
    if answer is not None or one.beat.goodbye:
        return answer
    owner = view.agents.get(live.instance.agent_id)
    if owner is None:
        return BeatOutcome(name, Outcome.UNKNOWN)
    final = owner.agent.status is AgentStatus.DECOMMISSIONED
    if final or (live.instance.state is InstanceState.FRESH and not owner.agent.may_be_revived):
        return standing(name, owner.agent)
    return None


def _unknown(view: NamespaceView, name: str) -> BeatOutcome:
    """Return the answer to an instance without a record: GONE if it was retired with its agent."""
    left = view.work.drains.get(drain_key("", name))
    owner = view.agents.get(left.agent_id) if left is not None else None
    retired = owner is not None and owner.agent.status is AgentStatus.DECOMMISSIONED
    return BeatOutcome(name, Outcome.GONE if retired else Outcome.UNKNOWN)


def fenced(instance_id: str, known: Instance | None, generation: int) -> BeatOutcome | None:
    """Return the answer to a process that is not the current one; None if it is."""
    if known is None or generation > known.generation:
        # A generation beyond the ledger's: the store lost the registration.
        return BeatOutcome(instance_id, Outcome.UNKNOWN)
    if generation < known.generation:
        why = f"generation {known.generation} has taken over"
        return BeatOutcome(instance_id, Outcome.FENCED, why)
    return None


def standing(instance_id: str, agent: Agent) -> BeatOutcome | None:
    """Return the answer to a beat that counted, by what its agent may do."""
    match agent.status:
        case AgentStatus.INACTIVE:
            why = agent.status_reason or "an operator stopped it"
            return BeatOutcome(instance_id, Outcome.INACTIVE, why)
        case AgentStatus.REGISTERED:
            detail = agent.status_reason
            if agent.spec.activation is Activation.MANUAL:
                detail = "it is activated by hand only"
            return BeatOutcome(instance_id, Outcome.NOT_ACTIVATED, detail)
        case AgentStatus.DECOMMISSIONED:
            return BeatOutcome(instance_id, Outcome.GONE)
        case _:
            return None
