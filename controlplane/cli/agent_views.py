"""Agents, instances and choices as tables."""

from collections.abc import Iterable, Sequence

from controlplane.cli.moments import ago, moment
from controlplane.cli.rendering import Column, fields, table, width_of
from controlplane.cli.styles import Colour, coloured, printable
from fleetplane import AgentStatus, ConfigStatus
from fleetplane.v1 import agent_pb2, registry_service_pb2

_AGENT_COLUMNS = (
    Column("AGENT", flexible=True),
    Column("NAME", flexible=True),
    Column("VERSION"),
    Column("STATUS"),
    Column("LAST BEAT", right=True),
    Column("OWNER", flexible=True),
    Column("CAPABILITIES", flexible=True),
)

_INSTANCE_COLUMNS = (
    Column("INSTANCE", flexible=True),
    Column("STATE"),
    Column("TASKS", right=True),
    Column("IN FLIGHT", right=True),
    Column("DONE", right=True),
    Column("FAILED", right=True),
    Column("LATENCY", right=True),
    Column("LAST BEAT", right=True),
    Column("CONFIG", right=True),
)


def status_of(agent: agent_pb2.Agent) -> str:
    """Return the short name of an agent's status."""
    return AgentStatus(agent.status).name


def standing_of(agent: agent_pb2.Agent) -> str:
    """Return an agent's status, and whether it drains or waits for an approval."""
    if agent.HasField("pending_activation"):
        return f"{status_of(agent)} (pending)"
    return f"{status_of(agent)} (draining)" if agent.draining else status_of(agent)


def name_version(agent: agent_pb2.Agent) -> str:
    """Return `name@version`."""
    return f"{agent.spec.name}@{agent.spec.version}"


def agents_table(agents: Iterable[agent_pb2.Agent]) -> str:
    """Lay out agents, one per line."""
    return table(
        _AGENT_COLUMNS,
        [
            (
                one.agent_id,
                one.spec.name,
                one.spec.version,
                standing_of(one),
                ago(one.last_heartbeat),
                one.spec.owner,
                ",".join(one.spec.capabilities),
            )
            for one in agents
        ],
    )


def instances_table(agents: Sequence[agent_pb2.Agent]) -> str:
    """Lay out the instances of agents, one per line, each after its agent's name and status."""
    columns = (Column("NAME", flexible=True), Column("STATUS"), *_INSTANCE_COLUMNS)
    nothing = ("",) * len(_INSTANCE_COLUMNS)
    rows = []
    for agent in agents:
        head = (name_version(agent), standing_of(agent))
        rows += [(*head, *_instance(one)) for one in agent.instances] or [(*head, *nothing)]
    return table(columns, rows)


def _instance(instance: agent_pb2.Instance) -> tuple[str, ...]:
    load = instance.load
    return (
        instance.instance_id,
        state_of(instance),
        str(instance.tasks_held),
        str(load.in_flight),
        str(load.completed),
        str(load.failed),
        f"{load.latency_ms:.0f}ms" if load.latency_ms else "",
        ago(instance.last_heartbeat),
        config_of(instance),
    )


def state_of(instance: agent_pb2.Instance) -> str:
    """Return how fresh an instance is, or that it is alive and does not work; and if it drains."""
    state = agent_pb2.InstanceState.Name(instance.state).removeprefix("INSTANCE_STATE_")
    if instance.stalled:
        state = "STALLED"
    return f"{state} (draining)" if instance.draining else state


def config_of(instance: agent_pb2.Instance) -> str:
    """Return the configuration revision an instance runs, and the one it could not apply."""
    acknowledged = instance.config
    if ConfigStatus(acknowledged.status) is ConfigStatus.UNSPECIFIED:
        return ""
    running = f"r{acknowledged.running_revision}"
    if ConfigStatus(acknowledged.status) is ConfigStatus.FAILED:
        return f"{running} (r{acknowledged.attempted_revision} FAILED)"
    return running


def agent_details(agent: agent_pb2.Agent) -> str:
    """Lay out everything about one agent, and its instances."""
    spec = agent.spec
    shown = fields(
        {
            "agent": agent.agent_id,
            "name": spec.name,
            "version": spec.version,
            "status": standing_of(agent),
            "why": agent.status_reason,
            "pending": _pending(agent),
            "description": spec.description,
            "owner": spec.owner,
            "capabilities": ", ".join(spec.capabilities),
            "tools": ", ".join(spec.tools),
            "model": spec.model,
            "endpoint": spec.endpoint,
            "tags": ", ".join(f"{key}={spec.tags[key]}" for key in sorted(spec.tags)),
            "concurrency": str(spec.max_concurrency),
            "task timeout": f"{spec.timeout_seconds}s",
            "registered": moment(agent.registered_at),
            "changed": f"{moment(agent.updated_at)} (revision {agent.revision})",
            "last beat": _beat(agent),
        }
    )
    if not agent.instances:
        return f"{shown}\n\nNo instance."
    return f"{shown}\n\n" + table(_INSTANCE_COLUMNS, [_instance(one) for one in agent.instances])


def _pending(agent: agent_pb2.Agent) -> str:
    """Return who wants its activation confirmed; empty if nobody does."""
    if not agent.HasField("pending_activation"):
        return ""
    pending = agent.pending_activation
    policies = ", ".join(pending.policy_ids)
    asked = f"asked by {pending.asked_by} {ago(pending.asked_at)} ago"
    return f"{policies} wants a confirmation, {asked}: `fleetplane agents activate --confirm`"


def _beat(agent: agent_pb2.Agent) -> str:
    since = ago(agent.last_heartbeat)
    return f"{since} ago" if since else "never"


def choice(response: registry_service_pb2.FindBestAgentResponse) -> str:
    """Lay out who was chosen, the parts of every score, and why others were not considered."""
    winner = printable(f"{name_version(response.agent)} ({response.agent.agent_id})")
    title = coloured("Best:", Colour.STRONG)
    parts = [f"{title} {winner}, of {response.candidate_count} that qualify"]
    if response.HasField("instance"):
        where = response.instance.endpoint or response.agent.spec.endpoint
        parts.append(
            f"Instance: {printable(response.instance.instance_id)}"
            + (f" at {printable(where)}" if where else "")
        )
    parts.append("\n" + _scores([response.score, *response.candidates]))
    if response.rejected:
        parts.append("\nNot considered:\n" + _rejections(response.rejected))
    return "\n".join(parts)


def _scores(candidates: Sequence[registry_service_pb2.ScoredCandidate]) -> str:
    columns = (
        Column("CANDIDATE", flexible=True),
        Column("AGENT", flexible=True),
        Column("SCORE", right=True),
        Column("MATCH x0.50", right=True),
        Column("FREE", right=True),
        Column("SPEED", right=True),
        Column("SPEED FROM"),
        Column("IN FLIGHT", right=True),
    )
    rows = [
        (
            one.name_version,
            one.agent_id,
            f"{one.score:.3f}",
            f"{one.capability_match:.2f}",
            f"{one.concurrency:.2f} x{0.5 - one.speed_weight:.2f}",
            f"{one.speed:.2f} x{one.speed_weight:.2f}",
            "measured" if one.measured else "declared",
            str(one.in_flight),
        )
        for one in candidates
    ]
    return table(columns, rows)


def _rejections(rejected: Iterable[registry_service_pb2.RejectedCandidate]) -> str:
    columns = (
        Column("AGENT", flexible=True),
        Column("NAME", flexible=True),
        Column("REASON"),
        Column("DETAIL", flexible=True),
    )
    names = registry_service_pb2.RejectionReason
    rows = [
        (
            one.agent_id,
            one.name_version,
            names.Name(one.reason).removeprefix("REJECTION_REASON_"),
            one.detail,
        )
        for one in rejected
    ]
    return table(columns, rows)


def misses(metadata: dict[str, str]) -> str:
    """Lay out the nearest misses of a search that found nobody."""
    near = {
        name.removeprefix("miss."): why
        for name, why in metadata.items()
        if name.startswith("miss.")
    }
    width = max(map(width_of, near), default=0)
    return "\n".join(f"  {printable(one).ljust(width)}  {printable(near[one])}" for one in near)
