"""How long a trial took is what the scorer took, however many wait for their turn."""

import threading
from typing import Any

from controlplane.cli.prompt_scoring import evaluate
from fleetplane import PromptMessage, PromptVersion

AT_ONCE = 64


async def test_as_many_trials_run_as_was_asked_for_and_waiting_is_no_latency() -> None:
    all_there = threading.Barrier(AT_ONCE, timeout=10)

    def scorer(prompt: PromptVersion, item: dict[str, Any], trial: int) -> float:
        del prompt, item, trial
        all_there.wait()  # breaks unless all of them run at the same time
        return 1.0

    prompt = PromptVersion(
        prompt="greeting",
        version=1,
        messages=(PromptMessage("", "Hello"),),
        content_sha256="sha256:" + "a" * 64,
    )
    cases = [{"id": f"i{n}"} for n in range(AT_ONCE)]
    items = await evaluate(scorer, prompt, cases, trials=1, concurrency=AT_ONCE)
    assert len(items) == AT_ONCE
    assert max(item.latency_ms for item in items) < 10_000
