"""What naive prompts and A/B tests get wrong. Each test fails on the naive behaviour it names."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator

import pytest

from fleetplane import (
    ExperimentSpec,
    FailedPrecondition,
    FleetClient,
    GateVerdict,
    Metric,
    Reason,
    RevisionConflict,
    ScoredItem,
    Variant,
)
from tests.fakes.daemon import Daemon, running_daemon

PROMPT = "greeting"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running_daemon() as one:
        yield one


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[FleetClient]:
    async with FleetClient(daemon.address) as one:
        for number in (1, 2):
            await one.create_prompt_version(PROMPT, f"Hello {number}", reason="first words")
        yield one


async def test_16_a_rollback_brings_back_the_text_and_not_its_record(client: FleetClient) -> None:
    first = await client.get_prompt_version(PROMPT, version=1)
    restored = (await client.restore_prompt_version(PROMPT, 1, reason="better")).version
    assert (restored.version, restored.restored_from) == (3, 1)
    again = await client.get_prompt_version(PROMPT, version=3)
    assert again.text == first.text == "Hello 1"
    assert again.content_sha256 == first.content_sha256


async def test_17_of_two_writers_one_is_told_and_nothing_is_lost(client: FleetClient) -> None:
    moved = await client.move_label(PROMPT, 1, reason="go", expected_revision=0)
    seen = moved.label.revision

    async def move(version: int) -> str:
        try:
            await client.move_label(PROMPT, version, reason="mine", expected_revision=seen)
        except RevisionConflict:
            return "told"
        return "moved"

    assert sorted(await asyncio.gather(move(2), move(2))) in (["moved", "told"], ["moved", "moved"])
    with pytest.raises(RevisionConflict):
        await client.move_label(PROMPT, 1, reason="stale", expected_revision=seen)
    history = [one async for one in client.label_history(PROMPT, label="production")]
    assert [(one.to_version, one.from_version) for one in history] == [(2, 1), (1, 0)]


async def test_18_a_session_sees_one_variant_however_often_and_wherever_it_asks(
    client: FleetClient, daemon: Daemon
) -> None:
    await client.move_label(PROMPT, 1, reason="go")
    spec = ExperimentSpec(
        prompt=PROMPT,
        variants=(
            Variant(name="a", weight_bp=5_000, control=True, prompt_version=1),
            Variant(name="b", weight_bp=5_000, prompt_version=2),
        ),
        primary=Metric(name="solved"),
        coverage_bp=10_000,
    )
    await client.create_experiment("words", spec)
    await client.start_experiment("words")

    async def variants(session: str, times: int) -> set[str]:
        asked = [client.assign_variant("words", unit=session) for _ in range(times)]
        return {one.variant.name for one in await asyncio.gather(*asked)}

    first = await variants("session-1", 500)
    daemon.kill()
    await daemon.await_end()
    await daemon.arestart()
    async with asyncio.timeout(60):
        assert await variants("session-1", 500) == first
    assert len(first) == 1
    served = {
        (await client.resolve_prompt(PROMPT, session_id="session-1")).version.version
        for _ in range(20)
    }
    assert served == {1 if first == {"a"} else 2}, "what is served is what was dealt"
    others = [await client.assign_variant("words", unit=f"s-{n}") for n in range(50)]
    assert {one.variant.name for one in others} == {"a", "b"}


async def test_19_a_better_mean_of_eight_items_is_no_evidence(client: FleetClient) -> None:
    digest = "sha256:" + hashlib.sha256(b"items").hexdigest()
    for version, gain in ((1, 0.0), (2, 0.03)):
        items = [
            ScoredItem(item_id=f"i{n}", scores=(0.5 + 0.05 * n + gain * (n % 2) * 2,))
            for n in range(8)
        ]
        await client.record_evaluation(
            PROMPT, version, items, dataset_sha256=digest, scorer="exact"
        )
    await client.move_label(PROMPT, 1, reason="go")
    compared = await client.compare_prompt_versions(
        PROMPT, 2, baseline_version=1, dataset_sha256=digest
    )
    assert GateVerdict(compared.verdict) is GateVerdict.INSUFFICIENT
    await client.set_label_gate(PROMPT, dataset_sha256=digest, scorer="exact", reason="evidence")
    with pytest.raises(FailedPrecondition) as blocked:
        await client.move_label(PROMPT, 2, reason="the mean is better")
    assert blocked.value.reason == Reason.GATE_BLOCKED
