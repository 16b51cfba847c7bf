"""What an approval is bound to."""

import hashlib
from dataclasses import replace

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.approvals.digest import (
    bind,
    canonical,
    chained,
    digest_of,
    is_unbroken,
    within_ceilings,
)
from controlplane.domain.approvals.model import ApprovalDecision, Entry, EntryKind
from controlplane.domain.approvals.votes import decided
from controlplane.domain.errors import InvalidArgument
from tests.fakes.approvals import ACTION, NOW, NS, approval, voter

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**50), 2**50)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
_contexts = st.dictionaries(st.text(max_size=4), _json, max_size=4)


def test_the_digest_is_the_hash_of_the_text_that_is_shown():
    shown = canonical(NS, ACTION)
    assert digest_of(NS, ACTION) == "sha256:" + hashlib.sha256(shown).hexdigest()
    assert b'"to":"ann"' in shown
    assert b"estimated_cost" not in shown


@pytest.mark.parametrize(
    "changed",
    [
        {"agent_id": "b"},
        {"agent_name": "reader"},
        {"agent_version": "1.0.1"},
        {"session_id": "s"},
        {"action": "pay2"},
        {"tool": "bank"},
        {"context": {"to": "bob"}},
        {"context": {"to": "ann", "note": None}},
        {"context": {"to": ["ann"]}},
        {"context": {}},
    ],
)
def test_every_part_of_an_action_changes_its_digest(changed):
    assert digest_of(NS, replace(ACTION, **changed)) != digest_of(NS, ACTION)


def test_tenants_do_not_share_digests():
    assert digest_of("other", ACTION) != digest_of(NS, ACTION)


@given(_contexts)
def test_the_order_in_which_things_are_said_does_not_matter(context):
    turned = dict(reversed(context.items()))
    one, other = replace(ACTION, context=context), replace(ACTION, context=turned)
    assert digest_of(NS, one) == digest_of(NS, other)


@given(_contexts, _contexts)
def test_texts_are_equal_only_if_what_they_say_is(one, other):
    texts = [canonical(NS, replace(ACTION, context=context)) for context in (one, other)]
    if texts[0] == texts[1]:
        assert one == other


BOUND = ("agent_id", "agent_name", "agent_version", "session_id", "action", "tool")


@given(_contexts)
def test_the_fast_way_writes_what_the_general_way_writes(context):
    said = {"v": 1, "namespace": NS, "context": context}
    said |= {name: getattr(ACTION, name) for name in BOUND}
    assert canonical(NS, replace(ACTION, context=context)) == rfc8785.dumps(said)


@given(st.text(), st.integers(0, 2**50), st.lists(st.text(max_size=5), max_size=3))
def test_so_it_does_for_lines_of_the_record(text, number, subjects):
    entry = Entry(
        sequence=1,
        kind=EntryKind.GRANT,
        by=text,
        at_ms=number,
        comment=text,
        subjects=tuple(subjects),
    )
    fields = ("by", "at_ms", "sequence", "stage", "comment", "id", "delegate", "until_ms")
    said = {name: getattr(entry, name) for name in fields}
    said |= {"kind": "GRANT", "before": text, "subjects": subjects}
    assert chained(entry, text) == hashlib.sha256(rfc8785.dumps(said)).hexdigest()


def test_what_json_cannot_say_exactly_is_refused():
    with pytest.raises(InvalidArgument):
        canonical(NS, replace(ACTION, context={"n": 2**60}))


class TestCeilings:
    def test_a_ceiling_is_no_part_of_what_is_bound_exactly(self):
        bound, ceilings = bind({"a": 1, "b": {"c": 2, "d": 3}}, ("a", "b.c", "missing", "a.x"))
        assert (bound, ceilings) == ({"b": {"d": 3}}, {"a": 1, "b.c": 2})

    def test_what_is_no_number_is_bound_exactly(self):
        for value in (True, "2", None, [2]):
            assert bind({"a": value}, ("a",)) == ({"a": value}, {})

    def test_the_caller_keeps_what_it_said(self):
        said = {"b": {"c": 2}}
        bind(said, ("b.c",))
        assert said == {"b": {"c": 2}}

    @pytest.mark.parametrize(
        ("asked", "fits"),
        [
            ({"cost": 2.0}, True),
            ({"cost": 1.99}, True),
            ({"cost": 2.01}, False),
            ({}, False),
            ({"cost": 1, "time": 1}, False),
        ],
    )
    def test_an_action_may_come_with_less_and_not_without(self, asked, fits):
        assert within_ceilings(asked, {"cost": 2.0}) is fits


def test_a_record_that_was_changed_is_noticed():
    one = decided(
        approval(),
        voter("user:bob"),
        ApprovalDecision.GRANT,
        comment="",
        vote_id="",
        now_ms=NOW,
    )
    assert is_unbroken(one.digest, one.entries)
    first, second = one.entries
    assert not is_unbroken(one.digest, (first, replace(second, by="user:eve")))
    assert not is_unbroken(one.digest, (second,))
    assert not is_unbroken("sha256:0", one.entries)
