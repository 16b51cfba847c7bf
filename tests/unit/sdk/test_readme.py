"""The examples of the SDK's README run as they stand, against a real daemon."""

import asyncio
import re
import signal
import sys
from pathlib import Path

import fleetplane
from fleetplane.testing import fleet

README = Path(fleetplane.__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


async def _start(block: str, target: str) -> asyncio.subprocess.Process:
    code = block.replace("127.0.0.1:50051", target)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", code, stdout=asyncio.subprocess.PIPE
    )


async def _read_until(process: asyncio.subprocess.Process, words: str) -> str:
    assert process.stdout is not None
    lines = ""
    while words not in lines:
        line = (await process.stdout.readline()).decode()
        assert line, f"ended before {words!r}: {lines}"
        lines += line
    return lines


async def test_the_agent_and_the_orchestrator_of_the_readme_work_together() -> None:
    agent_code, orchestrator_code = BLOCKS[0], BLOCKS[4]
    async with asyncio.timeout(45), fleet() as running:
        agent = await _start(agent_code, running.target)
        said = await _read_until(agent, "A fleet of agents needs")
        assert "state active" in said
        orchestrator = await _start(orchestrator_code, running.target)
        out, _ = await orchestrator.communicate()
        assert orchestrator.returncode == 0
        assert b"everybody runs it" in out
        assert b"nobody qualifies" not in out
        assert "at 0.2" in await _read_until(agent, "at 0.2")
        agent.send_signal(signal.SIGTERM)
        assert "state closed" in await _read_until(agent, "state closed")
        assert await agent.wait() == 0


def test_every_other_example_compiles() -> None:
    assert len(BLOCKS) == 9
    for block in BLOCKS:
        compile(block, "README.md", "exec")
