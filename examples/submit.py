# ruff: noqa: T201, INP001  # an example shows what it does, and is no package
"""A submitter: gives `worker.py` something to do, follows it, and prints the result.

python examples/submit.py [host:port]
"""

import asyncio
import json
import sys

from fleetplane import FleetClient, TaskCancelled, TaskFailed, TaskState

TARGET = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"

TEXTS = ["A fleet of agents", "needs somebody", "to keep track of it."]


async def main() -> None:
    """Submit two tasks: one is followed, of the other only the result matters."""
    async with FleetClient(TARGET) as client:
        task = await client.submit_task("count-words", TEXTS, capabilities="count-words")
        async for seen in client.follow_tasks([task.task_id]):
            print(TaskState(seen.state).name, f"{seen.progress:.0%}", seen.progress_message)
        print(json.loads(await client.task_result(task.task_id)))
        try:
            await client.run_task("count-words", "no list", capabilities="count-words", wait=30)
        except (TaskFailed, TaskCancelled) as error:
            print(error)


if __name__ == "__main__":
    asyncio.run(main())
