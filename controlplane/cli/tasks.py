"""`fleetplane tasks`: work that agents are given."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli.arguments import member
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.durations import deadline as read_deadline
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, printable
from controlplane.cli.task_input import read_payload, write_bytes

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import FleetClient
    from fleetplane.v1 import task_service_pb2 as pb

PAGE = 1000
"""Tasks fetched in one call at most, by contract."""

app = typer.Typer(**PLAIN, help="Work that agents are given, and what became of it.")

TaskId = Annotated[str, typer.Argument(metavar="ID", help="Id of the task.")]
TaskIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of tasks.")]


@command(
    app,
    "submit",
    examples=(
        "fleetplane tasks submit --kind summarize --agent writer --payload 'a text' --wait",
        "fleetplane tasks submit --kind translate -c translate --payload @contract.txt -o json",
        "cat page.html | fleetplane tasks submit --kind read -c research --payload - --wait",
        "fleetplane tasks submit --kind bill -c billing --deadline 1h --on-drain fail",
    ),
)
async def submit(
    call: Globals,
    *,
    kind: Annotated[
        str, typer.Option("--kind", "-k", metavar="NAME", help="Which handler is meant.")
    ] = "",
    agent: Annotated[
        str, typer.Option("--agent", metavar="NAME", help="Name of the agent that must take it.")
    ] = "",
    capability: Annotated[
        list[str] | None,
        typer.Option(
            "--capability", "-c", metavar="NAME", help="What the agent must be able to; repeatable."
        ),
    ] = None,
    session: Annotated[
        str, typer.Option("--session", metavar="ID", help="Its tasks stay with one version.")
    ] = "",
    payload: Annotated[
        str,
        typer.Option("--payload", "-p", metavar="TEXT|@FILE|-", help="What the agent gets."),
    ] = "",
    deadline: Annotated[
        float | None,
        typer.Option(
            "--deadline", metavar="DURATION", parser=read_deadline, help="Longest to its end."
        ),
    ] = None,
    attempt_timeout: Annotated[
        float | None,
        typer.Option(
            "--attempt-timeout", metavar="DURATION", parser=read_deadline, help="Of one attempt."
        ),
    ] = None,
    attempts: Annotated[
        int,
        typer.Option("--attempts", metavar="NUMBER", min=0, help="Before it fails; default 3."),
    ] = 0,
    on_drain: Annotated[
        str,
        typer.Option(
            "--on-drain", metavar="ACTION", help="At a drain's deadline: requeue, fail, extend."
        ),
    ] = "",
    submitter: Annotated[
        str, typer.Option("--submitter", metavar="NAME", help="On whose behalf.")
    ] = "",
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="Makes a repetition safe for 10 min.")
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end and print the result.")
    ] = False,
) -> None:
    """Submit one task. It is assigned to an agent by name, by capabilities, or both.

    Without --wait its id is printed. With --wait its result is, as it came; exit code 1 if it did
    not succeed.
    """
    from fleetplane import DrainAction  # noqa: PLC0415  # not for help

    if not agent and not capability:
        raise WrongInput("say who may take it: --agent, --capability or both")
    action = member(DrainAction, on_drain or "requeue", "--on-drain")
    content = read_payload(payload)
    async with call.client() as client:
        task = await client.submit_task(
            kind,
            content,
            agent_name=agent,
            capabilities=capability or [],
            session_id=session,
            submitter=submitter,
            max_attempts=attempts,
            deadline=deadline,
            attempt_timeout=attempt_timeout,
            on_drain=action,
            request_id=request_id,
        )
        if wait:
            await _finish(call, client, task.task_id)
            return
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(task))
        return
    write(task.task_id)


async def _finish(call: Globals, client: "FleetClient", task_id: str) -> None:
    """Wait for the end of a task and write its result.

    Raises:
        CommandFailed: it did not succeed.
    """
    from controlplane.cli.task_following import follow_to_end  # noqa: PLC0415  # imports the SDK
    from controlplane.cli.task_views import outcome, succeeded  # noqa: PLC0415  # same

    (task,) = await follow_to_end(client, [task_id], lambda _: None)
    answer = await client.get_task(task_id, include_data=True)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(answer))
    elif succeeded(task):
        write_bytes(answer.result)
    if not succeeded(task):
        raise CommandFailed(f"{task_id}: {outcome(task)}")


@command(
    app,
    "list",
    examples=(
        "fleetplane tasks list",
        "fleetplane tasks list --state pending --state running --agent writer",
        "fleetplane tasks list --state failed --submitter batch-7 --limit 0 -o json",
    ),
)
async def list_tasks(
    call: Globals,
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            "-s",
            metavar="STATE",
            help="pending, assigned, running, succeeded, failed or cancelled; repeatable.",
        ),
    ] = None,
    agent: Annotated[
        str, typer.Option("--agent", metavar="NAME", help="For, or with, an agent of this name.")
    ] = "",
    agent_id: Annotated[
        str, typer.Option("--agent-id", metavar="ID", help="Held by this agent, or was.")
    ] = "",
    instance: Annotated[
        str, typer.Option("--instance", metavar="ID", help="Held by this process, or was.")
    ] = "",
    submitter: Annotated[
        str, typer.Option("--submitter", metavar="NAME", help="Of this submitter.")
    ] = "",
    session: Annotated[str, typer.Option("--session", metavar="ID", help="Of this session.")] = "",
    limit: Annotated[
        int, typer.Option("--limit", metavar="NUMBER", min=0, help="Shown at most; 0 shows all.")
    ] = 100,
) -> None:
    """List tasks, newest first."""
    from fleetplane import TaskState  # noqa: PLC0415  # not for help

    conditions = {
        "states": [member(TaskState, one, "--state") for one in state or ()],
        "agent_name": agent,
        "agent_id": agent_id,
        "instance_id": instance,
        "submitter": submitter,
        "session_id": session,
    }
    async with call.client() as client:
        tasks, total = await _collect(client, conditions, limit)
    if call.output is not Output.TABLE:
        write_value(call.output, {"tasks": [as_dict(one) for one in tasks], "total_size": total})
        return
    from controlplane.cli.task_views import tasks_table  # noqa: PLC0415  # imports the SDK

    if not tasks:
        note("No task matches.")
        return
    write(tasks_table(tasks))
    if len(tasks) < total:
        note(f"{len(tasks):,} of {total:,} tasks; --limit 0 shows all.")


async def _collect(
    client: "FleetClient", conditions: dict[str, Any], limit: int
) -> "tuple[list[pb.Task], int]":
    """Fetch pages until there are `limit` tasks (0: all); return them and how many match."""
    tasks: list[pb.Task] = []
    token = ""
    while True:
        size = min(PAGE, limit - len(tasks)) if limit else PAGE
        page = await client.list_tasks_page(page_size=size, page_token=token, **conditions)
        tasks += page.tasks
        token = page.next_page_token
        if not token or (limit and len(tasks) >= limit):
            return tasks, page.total_size


@command(
    app,
    "get",
    examples=("fleetplane tasks get task-81", "fleetplane tasks get task-81 --data -o json"),
)
async def get(
    call: Globals,
    *,
    task_id: TaskId,
    data: Annotated[
        bool, typer.Option("--data", help="Also payload, checkpoint and result.")
    ] = False,
) -> None:
    """Show a task, every lease it had, and on request what it carries."""
    async with call.client() as client:
        answer = await client.get_task(task_id, include_data=data)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(answer if data else answer.task))
        return
    from controlplane.cli.task_views import data_details, task_details  # noqa: PLC0415  # the SDK

    write(task_details(answer.task))
    if data:
        write("\n" + data_details(answer))


@command(
    app,
    "follow",
    examples=(
        "fleetplane tasks follow task-81 task-82",
        "fleetplane tasks follow task-81 -o json | jq -r .state",
    ),
)
async def follow(call: Globals, *, task_ids: TaskIds) -> None:
    """Show tasks as they are, then every change, until all have ended.

    Exit code 1 if one did not succeed. JSON: one line per change.
    """
    from controlplane.cli.task_following import follow_to_end, printer  # noqa: PLC0415  # the SDK
    from controlplane.cli.task_views import succeeded  # noqa: PLC0415  # same

    async with call.client() as client:
        ended = await follow_to_end(client, list(dict.fromkeys(task_ids)), printer(call.output))
    if failed := sum(not succeeded(one) for one in ended):
        raise CommandFailed(f"{failed} of {len(ended)} tasks did not succeed")


@command(
    app,
    "cancel",
    examples=(
        "fleetplane tasks cancel task-81 --reason 'not needed any more'",
        "fleetplane tasks cancel task-81 task-82",
    ),
)
async def cancel(
    call: Globals,
    *,
    task_ids: TaskIds,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")] = "",
) -> None:
    """Cancel tasks, whatever they are doing; each for itself."""
    from fleetplane import FleetError, Unavailable  # noqa: PLC0415  # not for help

    cancelled: list[pb.Task] = []
    refused: list[tuple[str, FleetError]] = []
    async with call.client() as client:
        for task_id in task_ids:
            try:
                cancelled.append(await client.cancel_task(task_id, reason=reason))
            except Unavailable:
                raise
            except FleetError as error:
                refused.append((task_id, error))
    if len(task_ids) == 1 and refused:
        raise refused[0][1]
    if call.output is not Output.TABLE:
        errors = [{"task_id": one, "error": why.message} for one, why in refused]
        write_value(call.output, {"tasks": [as_dict(one) for one in cancelled], "refused": errors})
    else:
        for task in cancelled:
            write(f"{printable(task.task_id)} cancelled")
        for task_id, why in refused:
            write(printable(f"{task_id} {why.message}"))
    if refused:
        raise CommandFailed(f"{len(refused)} of {len(task_ids)} tasks were not cancelled")
