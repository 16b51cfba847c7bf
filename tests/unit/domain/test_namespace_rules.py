"""What a namespace may be called and hold, tried with everything."""

import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.errors import InvalidArgument
from controlplane.domain.namespace_rules import (
    MAX_DESCRIPTION_BYTES,
    MAX_LABELS,
    MAX_QUOTA,
    Content,
    check_namespace,
    check_new_name,
    check_removable,
    exceeds,
    labelled,
)
from controlplane.domain.namespaces import Namespace, Quota, Quotas

names = st.one_of(st.text(max_size=70), st.from_regex(r"[a-z0-9-]{0,70}", fullmatch=True))
labels = st.dictionaries(st.text(max_size=70), st.text(max_size=300), max_size=5)
quotas = st.builds(Quotas, **{quota.value: st.integers(-2, MAX_QUOTA + 2) for quota in Quota})
counts = st.integers(0, 10)


def violations(namespace: Namespace) -> list[str]:
    try:
        check_namespace(namespace)
    except InvalidArgument as refusal:
        return [violation.field for violation in refusal.violations]
    return []


@given(names)
def test_a_name_is_1_to_63_of_its_letters(name: str):
    if re.fullmatch(r"[a-z0-9-]{1,63}", name) is not None:
        check_new_name(name)
        return
    with pytest.raises(InvalidArgument) as refused:
        check_new_name(name)
    assert refused.value.metadata["field"] == "name"


@pytest.mark.parametrize("name", ["@system", "a/b", "", "Ä", "a\n", "A", "a" * 64])
def test_names_that_could_be_mistaken_are_refused(name: str):
    with pytest.raises(InvalidArgument):
        check_new_name(name)


@given(labels, quotas, st.text(max_size=400))
def test_exactly_what_is_out_of_bounds_is_named(
    labels: dict[str, str], quotas: Quotas, description: str
):
    namespace = Namespace(name="a", labels=labels, quotas=quotas, description=description)
    wrong = violations(namespace)
    assert ("description" in wrong) == (len(description.encode()) > MAX_DESCRIPTION_BYTES)
    for quota in Quota:
        inside = 0 <= quotas.of(quota) <= MAX_QUOTA
        assert (f"quotas.{quota.value}" in wrong) == (not inside)
    bad = any(
        not 1 <= len(key.encode()) <= 63
        or not 1 <= len(value.encode()) <= 256
        or not (key + value).isprintable()
        for key, value in labels.items()
    )
    assert any(field.startswith("labels") for field in wrong) == bad


def test_there_are_at_most_64_labels():
    many = {f"k{n}": "v" for n in range(MAX_LABELS + 1)}
    assert violations(Namespace(name="a", labels=many)) == ["labels"]
    many.popitem()
    assert violations(Namespace(name="a", labels=many)) == []


@given(labels, labels)
def test_labels_are_set_and_an_empty_value_removes(before: dict[str, str], changes: dict[str, str]):
    after = labelled(before, changes)
    for key, value in changes.items():
        assert after.get(key, "") == value
    for key, value in before.items():
        if key not in changes:
            assert after.get(key, "") == value
    assert after.keys() <= before.keys() | changes.keys()
    assert labelled(after, changes) == after


def test_default_stays():
    check_removable("defaults")
    with pytest.raises(InvalidArgument):
        check_removable("default")


@given(st.integers(0, 20), st.integers(0, 20), st.integers(-5, 5))
def test_a_bound_refuses_only_what_adds(bound: int, present: int, adding: int):
    refused = exceeds(bound, present, adding)
    if bound == 0 or adding <= 0:
        assert not refused
    else:
        assert refused == (present + adding > bound)


@given(st.builds(Content, **{field.name: counts for field in fields(Content)}))
def test_a_namespace_is_empty_if_it_holds_nothing(content: Content):
    holds = content.holds()
    assert content.is_empty == (not holds)
    assert all(count > 0 for count in holds.values())
    assert sum(holds.values()) == sum(getattr(content, one.name) for one in fields(Content))
