"""`fleetplane agents watch`: the fleet as it changes."""

from typing import Any

from controlplane.cli.agent_views import name_version, status_of
from controlplane.cli.call import Output
from controlplane.cli.moments import clock
from controlplane.cli.rendering import as_dict, note, write, write_event
from controlplane.cli.styles import STATUS_COLOURS, Colour, coloured, printable
from fleetplane import AgentsChanged, AgentsEvent, AgentsSnapshot, FilterFields, FleetClient
from fleetplane.v1 import agent_pb2

_STATUS_WIDTH = len("DECOMMISSIONED")


async def follow(client: FleetClient, output: Output, wanted: FilterFields) -> None:
    """Print events until cancelled or refused."""
    lines = Lines()
    async for event in client.watch_agents(**wanted):
        if output is Output.TABLE:
            lines.show(event)
        elif (value := as_event(event)) is not None:
            write_event(output, value)


def as_event(event: AgentsEvent) -> dict[str, Any] | None:
    """Return an event for programs; None for silence."""
    match event:
        case AgentsSnapshot():
            kind, removed = "snapshot", None
        case AgentsChanged():
            kind, removed = "changed", list(event.removed_agent_ids)
        case _:
            return None
    value: dict[str, Any] = {"event": kind, "agents": [as_dict(one) for one in event.agents]}
    if removed is not None:
        value["removed_agent_ids"] = removed
    value["position"] = {"epoch": event.position.epoch, "revision": str(event.position.revision)}
    return value


class Lines:
    """Writes one line per agent that is there or changes, with what it was before."""

    def __init__(self) -> None:
        self._known: dict[str, agent_pb2.Agent] = {}

    def show(self, event: AgentsEvent) -> None:
        """Write what an event says."""
        if isinstance(event, AgentsSnapshot):
            gone = self._known.keys() - {one.agent_id for one in event.agents}
            if not event.agents:
                note("No agent matches yet.")
        elif isinstance(event, AgentsChanged):
            gone = set(event.removed_agent_ids)
        else:
            return
        for agent in event.agents:
            self._changed(agent)
        for agent_id in sorted(gone):
            self._gone(agent_id)

    def _changed(self, agent: agent_pb2.Agent) -> None:
        before = self._known.get(agent.agent_id)
        self._known[agent.agent_id] = agent
        if before is not None and before.revision == agent.revision:
            return
        status = status_of(agent)
        what = ""
        if before is not None:
            was = status_of(before)
            what = f"was {was}" if was != status else f"changed at revision {agent.revision}"
        if agent.status_reason:
            what = f"{what} ({agent.status_reason})".strip()
        self._write(status, agent, what)

    def _gone(self, agent_id: str) -> None:
        agent = self._known.pop(agent_id, None)
        if agent is not None:
            self._write("gone", agent, "left, or matches no longer")

    @staticmethod
    def _write(status: str, agent: agent_pb2.Agent, what: str) -> None:
        shown = coloured(status.ljust(_STATUS_WIDTH), STATUS_COLOURS.get(status))
        name = printable(f"{name_version(agent)}  {agent.agent_id}")
        line = f"{coloured(clock(), Colour.FAINT)}  {shown}  {name}"
        write(f"{line}  {coloured(printable(what), Colour.FAINT)}" if what else line)
