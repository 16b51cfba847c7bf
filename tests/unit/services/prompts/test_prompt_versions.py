import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import InvalidArgument, LimitExceeded, RevisionConflict
from controlplane.domain.prompts.content import MAX_CONTENT_BYTES, checked, digest_of
from controlplane.domain.prompts.model import PromptContent, PromptMessage, PromptType
from controlplane.domain.prompts.refusals import (
    LabelNotFound,
    PromptNotFound,
    PromptVersionNotFound,
)
from controlplane.services.ports import RequestKey
from fleetplane_prompts import VariableSpec, VariableType
from tests.fakes.plane import NS, Plane
from tests.fakes.prompt_world import ADA, PROMPT, PromptWorld, text


@pytest.fixture
async def world() -> PromptWorld:
    made = PromptWorld()
    await made.follow()
    return made


async def test_the_first_version_makes_the_prompt(world):
    written = await world.write(text("Hello {{name}}", model="m", temperature=0.2))
    version = written.version
    assert written.created
    assert (version.version, version.parent, version.author, version.reason) == (
        1,
        0,
        "ada",
        "better",
    )
    assert version.revision > 0
    assert version.content.variables == {"name": VariableSpec()}
    found = await world.prompts.get(NS, PROMPT, version=0, label="", min_revision=0)
    assert found.version.content.config == {"model": "m", "temperature": 0.2}
    assert found.labels == ("latest",)


async def test_what_equals_the_head_is_the_head(world):
    first = await world.write("Hello")
    again = await world.write("Hello", reason="again")
    assert not again.created
    assert again.version == first.version
    forced = await world.write("Hello", force_new=True)
    assert forced.created
    assert (forced.version.version, forced.version.content_sha256) == (
        2,
        first.version.content_sha256,
    )


async def test_only_config_makes_another_version(world):
    await world.write(text("Hello", temperature=0.2))
    assert (await world.write(text("Hello", temperature=0.3))).version.version == 2


async def test_an_older_content_again_is_a_new_version(world):
    for said in ("a", "b", "a"):
        await world.write(said)
    assert world.prompt.latest_version == 3


async def test_a_stale_writer_is_refused(world):
    await world.write("a", expected_latest=0)
    with pytest.raises(RevisionConflict):
        await world.write("b", expected_latest=0)
    assert (await world.write("b", expected_latest=1)).version.parent == 1


async def test_two_concurrent_writers_both_get_a_version_of_their_own():
    """Pitfall: the history appended after the overwrite, and one of them lost."""
    one = PromptWorld()
    await one.follow()
    await one.write("start")
    other = one.beside()
    await other.follow()
    written = await asyncio.gather(
        *(
            world.prompts.create(
                NS,
                PROMPT,
                text(f"text {number}"),
                reason="race",
                force_new=False,
                expected_latest=None,
                request=None,
                caller=ADA,
            )
            for number, world in enumerate((one, other) * 4)
        )
    )
    await one.follow()
    numbers = sorted(each.version.version for each in written)
    assert numbers == list(range(2, 10))
    for each in written:
        assert each.version.parent == each.version.version - 1
        kept = await one.prompts.get(
            NS, PROMPT, version=each.version.version, label="", min_revision=0
        )
        assert kept.version.content.text == each.version.content.text


async def test_a_repeated_request_is_answered_with_the_version_it_made(world):
    key = RequestKey("r-1", "d")
    first = await world.write("a", request=key)
    await world.write("b")
    again = await world.write("a", request=key)
    assert again.version == first.version
    assert world.prompt.latest_version == 2


async def test_restoring_copies_all_that_a_version_says(world):
    """Pitfall: the entry of the history, a record, becomes the content."""
    content = PromptContent(
        type=PromptType.CHAT,
        messages=(
            PromptMessage(role="system", content="Be {{mood}}."),
            PromptMessage(role="user", content="{{count}}"),
        ),
        variables={
            "count": VariableSpec(type=VariableType.NUMBER, required=False),
            "mood": VariableSpec(max_length=10),
        },
        config={"model": "m", "stop": ["a", {"b": 1}]},
    )
    first = await world.write(content)
    await world.write("quite another")
    restored = await world.restore(1)
    assert restored.created
    version = restored.version
    assert (version.version, version.restored_from, version.parent) == (3, 1, 2)
    assert version.content == first.version.content
    assert version.content_sha256 == first.version.content_sha256 == digest_of(version.content)
    assert isinstance(version.content.messages[0].content, str)


async def test_restoring_the_head_changes_nothing(world):
    await world.write("a")
    restored = await world.restore(1)
    assert not restored.created
    assert restored.version.version == 1


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(min_size=1, max_size=20).filter(lambda t: "{{" not in t and "\0" not in t),
            st.dictionaries(st.text(min_size=1, max_size=5), st.integers(-9, 9), max_size=3),
        ),
        min_size=1,
        max_size=6,
    ),
    st.data(),
)
async def test_whatever_was_written_is_restored_under_the_same_digest(versions, data):
    world = PromptWorld()
    await world.follow()
    for said, config in versions:
        await world.write(text(said, **{f"k{key!r}": value for key, value in config.items()}))
    number = data.draw(st.integers(1, world.prompt.latest_version))
    old = await world.prompts.get(NS, PROMPT, version=number, label="", min_revision=0)
    restored = await world.restore(number)
    assert restored.version.content_sha256 == old.version.content_sha256
    assert restored.version.content == old.version.content
    again = await world.prompts.get(NS, PROMPT, version=number, label="", min_revision=0)
    assert again.version == old.version


async def test_what_is_not_there_is_said(world):
    with pytest.raises(PromptNotFound):
        await world.prompts.get(NS, PROMPT, version=0, label="", min_revision=0)
    await world.write("a")
    with pytest.raises(PromptVersionNotFound):
        await world.prompts.get(NS, PROMPT, version=2, label="", min_revision=0)
    with pytest.raises(LabelNotFound):
        await world.prompts.get(NS, PROMPT, version=0, label="production", min_revision=0)
    with pytest.raises(PromptVersionNotFound):
        await world.restore(7)


async def test_versions_are_listed_newest_first_page_by_page(world):
    for said in "abcde":
        await world.write(said)
    page = await world.prompts.versions(NS, PROMPT, before=None, limit=2, min_revision=0)
    assert [one.version for one in page.versions] == [5, 4]
    page = await world.prompts.versions(
        NS, PROMPT, before=int(page.next_cursor), limit=3, min_revision=0
    )
    assert [one.version for one in page.versions] == [3, 2, 1]
    assert page.next_cursor == ""


async def test_prompts_are_listed_by_name(world):
    for name in ("b", "a.x", "a.y"):
        await world.write("hi", name)
    page = await world.prompts.page(NS, prefix="a.", after="", limit=1, min_revision=0)
    assert ([one.name for one in page.prompts], page.total, page.next_cursor) == (["a.x"], 2, "a.x")
    page = await world.prompts.page(NS, prefix="a.", after="a.x", limit=1, min_revision=0)
    assert ([one.name for one in page.prompts], page.next_cursor) == (["a.y"], "")


async def test_a_diff_shows_text_config_and_variables(world):
    await world.write(text("one\ntwo {{x}}\n", temperature=0.2, top={"k": 1}))
    content = replace(
        text("one\n2 {{x}}\n", temperature=0.3, top={"k": 1}),
        variables={"x": VariableSpec(type=VariableType.NUMBER)},
    )
    await world.write(content)
    found = await world.prompts.diff(NS, PROMPT, 1, 2)
    assert "-two {{x}}\n+2 {{x}}\n" in found.text
    assert [one.path for one in found.leaves] == ["config.temperature", "variables.x.type"]
    assert (await world.prompts.diff(NS, PROMPT, 1, 1)).same


async def test_a_namespace_holds_so_many_prompts_and_bytes():
    world = PromptWorld(max_prompts=1, max_bytes=4_096, plane=Plane())
    await world.follow()
    await world.write("a")
    with pytest.raises(LimitExceeded, match="prompts of a namespace is limited to 1"):
        await world.write("a", "another")
    await world.write("x" * 1_000)
    with pytest.raises(LimitExceeded, match="bytes of all prompts"):
        await world.write("y" * 1_000)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (text(""), "text"),
        (text("a\0"), "text"),
        (text("{{"), "text"),
        (replace(text("{{a}}"), variables={"b": VariableSpec()}), "variables.b"),
        (replace(text("{{a}}"), variables={"1": VariableSpec()}), "variables.name"),
        (replace(text("a"), type=PromptType.CHAT, messages=()), "messages"),
        (
            replace(
                text("a"),
                type=PromptType.CHAT,
                messages=(PromptMessage(role="ghost", content="a"),),
            ),
            "messages[0].role",
        ),
        (
            replace(
                text("a"), type=PromptType.CHAT, messages=(PromptMessage(role="user", content=""),)
            ),
            "messages[0].content",
        ),
    ],
)
def test_malformed_content_is_named(content, named):
    with pytest.raises(InvalidArgument) as caught:
        checked(content)
    assert caught.value.violations[0].field == named


def test_content_has_a_limit():
    checked(text("x" * MAX_CONTENT_BYTES))
    with pytest.raises(LimitExceeded, match="262144"):
        checked(text("x" * (MAX_CONTENT_BYTES + 1)))
    with pytest.raises(LimitExceeded, match="config"):
        checked(text("x", key="y" * 20_000))
