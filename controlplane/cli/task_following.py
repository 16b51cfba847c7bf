"""`fleetplane tasks follow`: tasks on their way to an end."""

from collections.abc import Callable, Sequence
from typing import Final

from controlplane.cli.call import Output
from controlplane.cli.moments import clock
from controlplane.cli.rendering import as_dict, write, write_event
from controlplane.cli.styles import STATUS_COLOURS, Colour, coloured, printable
from controlplane.cli.task_views import ended, reason_of, state_of
from fleetplane import FleetClient
from fleetplane.v1 import task_service_pb2 as pb

_STATE_WIDTH: Final = len("CANCELLED")


async def follow_to_end(
    client: FleetClient, task_ids: Sequence[str], show: Callable[[pb.Task], None]
) -> list[pb.Task]:
    """Follow tasks until all have ended.

    Args:
        client: an open client.
        task_ids: which, each once.
        show: called with each task as it is, then after every change.

    Returns:
        Their last states, in the order of the ids.
    """
    last: dict[str, pb.Task] = {}
    async for task in client.follow_tasks(task_ids):
        known = last.get(task.task_id)
        last[task.task_id] = task
        if known is None or known.revision != task.revision:
            show(task)
    return [last[one] for one in task_ids if one in last]


def printer(output: Output) -> Callable[[pb.Task], None]:
    """Return what writes a task that has changed: a line for people, or a value for programs."""
    if output is not Output.TABLE:
        return lambda task: write_event(output, as_dict(task))
    return _show


def _show(task: pb.Task) -> None:
    state = state_of(task)
    shown = coloured(state.ljust(_STATE_WIDTH), STATUS_COLOURS.get(state))
    parts = [task.instance_id and f"with {task.instance_id}"]
    if task.progress and not ended(task):
        parts.append(f"{task.progress:.0%} {task.progress_message}".strip())
    if why := reason_of(task):
        parts.append(f"({why})")
    line = f"{coloured(clock(), Colour.FAINT)}  {shown}  {printable(task.task_id)}"
    what = printable("  ".join(part for part in parts if part))
    write(f"{line}  {coloured(what, Colour.FAINT)}" if what else line)
