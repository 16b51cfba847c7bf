"""Prompts through the SDK and a real daemon; over a restart, and between two replicas."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from fleetplane import (
    AgentSpec,
    ExperimentSpec,
    FailedPrecondition,
    FleetClient,
    GateVerdict,
    InvalidArgument,
    Metric,
    NotFound,
    PromptCache,
    PromptMessage,
    PromptReason,
    RevisionConflict,
    ScoredItem,
    Unavailable,
    VariableError,
    VariableSpec,
    VariableType,
    Variant,
)
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.valkey import valkey_server

pytestmark = [pytest.mark.xdist_group("prompts"), pytest.mark.timeout(120)]

DATASET = "sha256:" + "d" * 64


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon(grace_seconds=1.0) as running:
        yield running


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[FleetClient]:
    async with FleetClient(daemon.address) as opened:
        yield opened


def scored(*scores: float, **fields: float) -> list[ScoredItem]:
    return [
        ScoredItem(item_id=f"i{n}", scores=(score,), **fields)  # type: ignore[arg-type]
        for n, score in enumerate(scores)
    ]


async def write(client: FleetClient, name: str, *texts: str) -> None:
    for text in texts:
        await client.create_prompt_version(name, text, reason="test")


def shown(cache: PromptCache, name: str) -> int:
    """Return the version that the cache has; 0: none."""
    try:
        return cache.current(name).version.version
    except NotFound:
        return 0


async def test_a_prompt_lives_its_life(client: FleetClient) -> None:
    made = await client.create_prompt_version(
        "life",
        [PromptMessage("system", "Be brief."), PromptMessage("user", "{{question}} ({{n}})")],
        variables={"n": VariableSpec(type=VariableType.NUMBER, required=False)},
        config={"model": "claude-sonnet-4-6", "temperature": 0.2},
        reason="first",
    )
    assert made.created
    again = await client.create_prompt_version(
        "life",
        [PromptMessage("system", "Be brief."), PromptMessage("user", "{{question}} ({{n}})")],
        variables={"n": VariableSpec(type=VariableType.NUMBER, required=False)},
        config={"temperature": 0.2, "model": "claude-sonnet-4-6"},
        reason="the same",
    )
    assert (again.created, again.version.version) == (False, 1)
    await client.create_prompt_version("life", "Answer {{question}}.", reason="simpler")
    with pytest.raises(NotFound):
        await client.resolve_prompt("life")
    moved = await client.move_label("life", 1, reason="go")
    with pytest.raises(RevisionConflict):
        await client.move_label("life", 2, reason="go", expected_revision=0)
    await client.move_label("life", 2, reason="go", expected_revision=moved.label.revision)
    resolved = await client.resolve_prompt("life")
    assert (resolved.version.version, resolved.reason) == (2, PromptReason.PRODUCTION)
    assert resolved.render(question="{{x}}") == "Answer {{x}}."
    difference = await client.diff_prompt_versions("life", 1, 2)
    assert "+Answer {{question}}." in difference.text_diff
    restored = await client.restore_prompt_version("life", 1, reason="it was better")
    version = await client.get_prompt_version("life", version=restored.version.version)
    assert (version.version, version.restored_from) == (3, 1)
    assert version.content_sha256 == made.version.content_sha256
    assert version.config == {"model": "claude-sonnet-4-6", "temperature": 0.2}
    rendered = await client.render_prompt("life", {"question": "Why?", "n": 3}, version=3)
    assert [one.content for one in rendered.messages] == ["Be brief.", "Why? (3)"]
    with pytest.raises(InvalidArgument) as caught:
        await client.render_prompt("life", {"qestion": "Why?"}, version=3)
    assert caught.value.violations[0].field == "variables.qestion"
    with pytest.raises(VariableError, match="question"):
        version.render({})
    history = [(one.from_version, one.to_version) async for one in client.label_history("life")]
    assert history == [(1, 2), (0, 1)]
    names = [one.name async for one in client.list_prompts(name_prefix="li")]
    assert names == ["life"]


async def test_a_gate_lets_a_label_move_on_evidence_only(client: FleetClient) -> None:
    await write(client, "gated", "one", "two", "three")
    await client.move_label("gated", 1, reason="first")
    gate = await client.set_label_gate(
        "gated", dataset_sha256=DATASET, scorer="exact", reason="care", critical_items=["i7"]
    )
    assert gate.gates[0].min_items == 50
    told: Any = {"dataset_sha256": DATASET, "scorer": "exact"}
    with pytest.raises(FailedPrecondition, match="not evaluated"):
        await client.move_label("gated", 2, reason="go")
    await client.record_evaluation("gated", 1, scored(*[0.8] * 60), **told)
    bad = scored(*[0.9] * 60)
    bad[7] = ScoredItem(item_id="i7", scores=(0.1,))
    await client.record_evaluation("gated", 2, bad, **told)
    await client.record_evaluation("gated", 3, scored(*[0.85] * 60), **told)
    with pytest.raises(FailedPrecondition) as caught:
        await client.move_label("gated", 2, reason="go")
    assert caught.value.metadata["verdict"] == "REGRESSION"
    compared = await client.compare_prompt_versions(
        "gated", 2, baseline_label="production", gate_label="production"
    )
    assert GateVerdict(compared.verdict) is GateVerdict.REGRESSION
    assert compared.regressed[0].item_id == "i7"
    moved = await client.move_label("gated", 2, reason="go", override_reason="i7 is obsolete")
    assert moved.overridden
    moved = await client.move_label("gated", 3, reason="go", override_reason="see before")
    assert moved.comparison.baseline_version == 2


async def test_a_cache_follows_and_a_removed_label_is_gone(client: FleetClient) -> None:
    await write(client, "cached", "one {{x}}", "two {{x}}")
    await client.move_label("cached", 1, reason="go")
    async with client.prompt_cache(
        ["cached", "missing"], fallbacks={"missing": "Nothing better."}
    ) as cache:
        assert cache.current("cached").render(x="a") == "one a"
        fallback = await cache.get("missing")
        assert fallback.is_fallback
        assert fallback.render(anything="x") == "Nothing better."
        began = await cache.get("cached", session_id="s-1")
        await client.move_label("cached", 2, reason="better")
        await eventually("the label moves", lambda: shown(cache, "cached") == 2)
        assert (await cache.get("cached", session_id="s-1")).version == began.version
        assert (await cache.get("cached", session_id="s-2")).version.version == 2
        await client.remove_label("cached", "production", reason="gone")
        await eventually("the label moves", lambda: shown(cache, "cached") == 0)
        with pytest.raises(NotFound, match="no label"):
            await cache.get("cached")
        last = await cache.get("cached", fallback="spare")
        assert (last.is_fallback, last.render()) == (True, "spare")
        assert (await cache.get("cached", session_id="s-1")).version == began.version


async def test_resolving_in_process_takes_microseconds(client: FleetClient) -> None:
    await write(client, "fast", "one")
    await client.move_label("fast", 1, reason="go")
    async with client.prompt_cache("fast") as cache:
        best = float("inf")
        for _ in range(30):
            start = time.perf_counter()
            for _ in range(100):
                cache.current("fast")
            best = min(best, (time.perf_counter() - start) / 100)
        assert best < 10e-6


async def test_labels_pins_and_caches_outlive_a_restart() -> None:
    with running_daemon(grace_seconds=1.0) as daemon:
        async with FleetClient(daemon.address) as client:
            await write(client, "steady", "one", "two", "three")
            await client.move_label("steady", 1, reason="go")
            await client.record_evaluation(
                "steady", 1, scored(*[0.8] * 60), dataset_sha256=DATASET, scorer="exact"
            )
            await client.record_evaluation(
                "steady", 2, scored(*[0.8] * 60), dataset_sha256=DATASET, scorer="exact"
            )
            first = await client.resolve_prompt("steady", session_id="s-1")
            async with client.prompt_cache("steady", max_stale=600) as cache:
                daemon.terminate()
                await daemon.await_end()
                assert cache.current("steady").version.version == 1
                await daemon.astart()
                await client.move_label("steady", 2, reason="after", timeout=20.0)
                await eventually("the label moves", lambda: shown(cache, "steady") == 2)
            kept = await client.resolve_prompt("steady", session_id="s-1")
            assert (kept.version, kept.reason) == (first.version, PromptReason.SESSION_PIN)
            compared = await client.compare_prompt_versions("steady", 2, baseline_version=1)
            assert GateVerdict(compared.verdict) is GateVerdict.PASS
            assert [m.to_version async for m in client.label_history("steady")] == [2, 1]


@contextlib.asynccontextmanager
async def two_replicas() -> AsyncIterator[tuple[FleetClient, FleetClient]]:
    async with valkey_server() as store:
        with (
            running_daemon(store=store.url, grace_seconds=1.0) as one,
            running_daemon(store=store.url, grace_seconds=1.0) as other,
        ):
            async with FleetClient(one.address) as first, FleetClient(other.address) as second:
                yield first, second


async def test_two_replicas_agree_on_labels_and_on_what_sessions_began_with() -> None:
    async with two_replicas() as (one, other):
        await write(one, "shared", "one", "two")
        await one.move_label("shared", 1, reason="go")
        async with other.prompt_cache("shared") as cache:
            await eventually("the label moves", lambda: shown(cache, "shared") == 1)
            await one.move_label("shared", 2, reason="better")
            await eventually("the label moves", lambda: shown(cache, "shared") == 2)
            await one.remove_label("shared", "production", reason="gone")
            await eventually("the label moves", lambda: shown(cache, "shared") == 0)
        await other.move_label("shared", 1, reason="back")
        for number in range(20):
            session = f"s-{number}"
            both = await asyncio.gather(
                one.resolve_prompt("shared", session_id=session),
                other.resolve_prompt("shared", session_id=session),
                one.move_label("shared", 1 + number % 2, reason="under way"),
                return_exceptions=True,
            )
            first, second = both[0], both[1]
            assert not isinstance(first, BaseException)
            assert not isinstance(second, BaseException)
            assert first.version.version == second.version.version


async def test_a_plane_that_is_away_for_too_long_is_an_error_or_the_fallback() -> None:
    with running_daemon(grace_seconds=1.0) as daemon:
        async with FleetClient(daemon.address) as client:
            await write(client, "stale", "one")
            await client.move_label("stale", 1, reason="go")
            async with client.prompt_cache("stale", max_stale=0.2) as cache:
                daemon.terminate()
                await daemon.await_end()
                await eventually("it is stale", lambda: cache.stale_seconds > 0.2)
                with pytest.raises(Unavailable):
                    await cache.get("stale")
                assert (await cache.get("stale", fallback="spare")).is_fallback


async def test_an_experiment_gives_each_session_one_version_and_counts_what_is_used(
    client: FleetClient,
) -> None:
    """Pitfall: who is said to have seen B got A."""
    await write(client, "tried", "one", "two")
    await client.move_label("tried", 1, reason="go")
    spec = ExperimentSpec(
        prompt="tried",
        variants=(
            Variant(name="old", weight_bp=5_000, control=True, prompt_version=1),
            Variant(name="new", weight_bp=5_000, prompt_version=2),
        ),
        primary=Metric(name="solved"),
        coverage_bp=10_000,
    )
    await client.create_experiment("tried-out", spec)
    await client.start_experiment("tried-out")
    agent = (await client.register(AgentSpec(name="trier", version="1.0.0"))).agent
    async with client.prompt_cache("tried", agent_id=agent.agent_id, agent_name="trier") as cache:
        found = {
            session: await cache.get("tried", session_id=session)
            for session in (f"s-{number}" for number in range(40))
        }
        assert {one.version.version for one in found.values()} == {1, 2}
        assert {one.reason for one in found.values()} == {PromptReason.EXPERIMENT}
        assert all(one.experiment == "tried-out" for one in found.values())
        used = [await client.mark_prompt_used(one) for one in found.values()]
        assert all(used)
        await client.stop_experiment("tried-out", reason="enough")
        for session, one in found.items():
            again = await client.resolve_prompt(
                "tried", agent_id=agent.agent_id, session_id=session
            )
            assert again.version.version == one.version.version
            assert again.reason is PromptReason.SESSION_PIN
