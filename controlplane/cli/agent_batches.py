"""Registering many agents."""

from collections.abc import Sequence

from controlplane.cli.rendering import Column, table
from fleetplane import FleetClient, FleetError, Registration
from fleetplane.v1 import registry_service_pb2

BATCH = 500
"""Agents in one call at most, by contract."""

Answer = registry_service_pb2.RegisterResponse | FleetError


async def register_all(client: FleetClient, entries: Sequence[Registration]) -> list[Answer]:
    """Register everybody, 500 in a call; each is accepted or refused by itself, in order."""
    answers: list[Answer] = []
    for start in range(0, len(entries), BATCH):
        answers += await client.batch_register(entries[start : start + BATCH])
    return answers


def registered_table(entries: Sequence[Registration], answers: Sequence[Answer]) -> str:
    """Lay out what became of each registration."""
    columns = (Column("NAME", flexible=True), Column("RESULT"), Column("AGENT", flexible=True))
    rows = []
    for entry, answer in zip(entries, answers, strict=True):
        name = f"{entry.spec.name}@{entry.spec.version}"
        if isinstance(answer, FleetError):
            rows.append((name, "refused", answer.message))
        else:
            result = "created" if answer.created else "unchanged"
            rows.append((name, result, answer.agent.agent_id))
    return table(columns, rows)
