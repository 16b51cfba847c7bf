# ruff: noqa: T201, INP001  # an example shows what it does, and is no package
"""An agent that takes tasks: start `fleetplane serve`, then this, then `submit.py`.

    python examples/worker.py [host:port]

It finishes what it has begun when SIGTERM or Ctrl-C asks it to stop; a second Ctrl-C gives it back.
"""

import asyncio
import sys

from fleetplane import Agent, AgentState, TaskContext, TaskRejected

TARGET = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"


def note(state: AgentState, detail: str) -> None:
    """Say what the plane thinks of this process."""
    print(f"state {state} {detail}")


agent = Agent(
    "word-counter",
    "1.0.0",
    target=TARGET,
    description="Counts the words of texts",
    capabilities=["count-words"],
    max_concurrency=4,
    on_state=note,
)


@agent.task("count-words")
async def count_words(task: TaskContext) -> dict[str, int]:
    """Count words text by text; a successor goes on at the last checkpoint."""
    texts = task.json()
    if not isinstance(texts, list):
        raise TaskRejected("the payload must be a list of texts")
    total, first = (int(part) for part in (task.checkpoint or b"0 0").split())
    for index in range(first, len(texts)):
        await asyncio.sleep(0.2)  # stands for real work
        total += len(str(texts[index]).split())
        done = index + 1
        await task.progress(done / len(texts), f"{done} texts", checkpoint=f"{total} {done}")
    return {"words": total}


async def main() -> None:
    """Work until somebody asks to stop."""
    async with agent:
        print("stopped by", (await agent.run_until_stopped()).name)


if __name__ == "__main__":
    asyncio.run(main())
