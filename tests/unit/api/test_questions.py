"""Questions read off the wire: the same as through the messages of the contract."""

import json
import math

import pytest
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from hypothesis import example, given
from hypothesis import strategies as st

from controlplane.api.convert.policies import MAX_CONTEXT_BYTES, question_from_proto
from controlplane.api.convert.questions import (
    KEPT_CLAIM_BYTES,
    KEPT_CLAIMS,
    KnownClaims,
    QuestionReader,
    decode_batch,
    decode_single,
)
from controlplane.domain.errors import DomainError, InvalidArgument
from controlplane.domain.policies import validate_claims
from controlplane.services.policies.answers import Question
from fleetplane.v1 import policy_service_pb2 as pb

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["\u00e9", "e\u0301"]
)
SCALARS = st.one_of(
    st.builds(Value, string_value=st.text(st.characters(exclude_categories=["Cs"]), max_size=140)),
    st.builds(Value, number_value=st.floats()),
    st.builds(Value, number_value=st.integers(-(2**54), 2**54)),
    st.builds(Value, bool_value=st.booleans()),
    st.just(Value(null_value=NULL_VALUE)),
    st.just(Value()),
)
VALUES = st.recursive(
    SCALARS,
    lambda inside: st.one_of(
        st.builds(Value, list_value=st.builds(ListValue, values=st.lists(inside, max_size=3))),
        st.builds(
            Value,
            struct_value=st.builds(Struct, fields=st.dictionaries(KEYS, inside, max_size=3)),
        ),
    ),
    max_leaves=6,
)
CONTEXTS = st.builds(Struct, fields=st.dictionaries(KEYS, VALUES, max_size=4))
READER = QuestionReader()


def outcome_of(question):
    """Return what is asked, or how it is refused; of several flaws either may be named."""
    try:
        asked = question()
        claims = asked.claims if asked.is_checked else validate_claims(asked.claims)
    except DomainError as refusal:
        return type(refusal)
    # The text tells 1 and True and 1.0 apart, whatever equals what.
    return asked[:2], json.dumps(claims, sort_keys=True), asked[3:5]


def read(raw):
    return READER.single(raw, decode_single(raw))


def entry(key, value):
    return pb.EvaluatePolicyRequest(
        agent_id="agt-1", action="read", context=Struct(fields={key: value})
    ).SerializeToString()


@given(CONTEXTS, st.text("ab", max_size=2))
@example(Struct(fields={key: Value(bool_value=True) for key in ("\u00e9", "e\u0301")}), "a")
@example(Struct(fields={"": Value(string_value="")}), "a")
@example(Struct(fields={"k" * 125: Value(string_value="")}), "a")
@example(Struct(fields={"k" * 126: Value(string_value="v" * 126)}), "a")
@example(Struct(fields={"k": Value(number_value=-0.0)}), "a")
@example(Struct(fields={"k": Value(number_value=2.0**53)}), "a")
def test_a_question_is_what_its_message_says(context, agent_id):
    request = pb.EvaluatePolicyRequest(
        agent_id=agent_id, action="read", tool="t", session_id="s", context=context
    )
    raw = request.SerializeToString()

    expected = outcome_of(lambda: question_from_proto(request, len(raw)))
    for _ in range(2):  # the second time from memory
        assert outcome_of(lambda: read(raw)) == expected


@given(st.binary(max_size=40))
def test_whatever_stands_for_an_entry_is_read_or_refused_as_the_message_does(noise):
    raw = b"\x12\x01a\x1a\x04read" + b"\x2a" + bytes((len(noise) + 2,))
    raw += b"\x0a" + bytes((len(noise),)) + noise

    def whole():
        try:
            request = pb.EvaluatePolicyRequest.FromString(raw)
        except Exception:  # noqa: BLE001 - protobuf's own, for bytes that are no message
            raise InvalidArgument.of("(request)", "is not a valid message of its type") from None
        return question_from_proto(request, len(raw))

    assert outcome_of(lambda: read(raw)) == outcome_of(whole)


def test_the_last_of_two_equal_keys_counts():
    first, second = entry("k", Value(string_value="1")), entry("k", Value(string_value="2"))
    both = first + second  # messages that follow each other are one

    assert read(both).claims == {"k": "2"}
    assert question_from_proto(pb.EvaluatePolicyRequest.FromString(both), 0).claims == {"k": "2"}


def test_each_item_of_a_batch_is_read_or_refused_by_itself():
    batch = pb.BatchEvaluatePolicyRequest(
        items=[
            pb.EvaluationItem(agent_id="agt-1", action="read"),
            pb.EvaluationItem(action="read"),
            pb.EvaluationItem(
                agent_id="agt-1",
                context=Struct(fields={"cost": Value(number_value=math.nan)}),
            ),
            pb.EvaluationItem(agent_id="agt-2", session_id="s", context=Struct()),
        ]
    )
    raw = batch.SerializeToString()
    first, second, third, fourth = READER.batch(raw, decode_batch(raw))

    assert isinstance(first, Question)
    assert isinstance(fourth, Question)
    assert (first.agent_id, first.action) == ("agt-1", "read")
    assert "agent_id" in str(second)
    assert "context.cost" in str(third)
    assert (fourth.agent_id, fourth.session_id, fourth.claims) == ("agt-2", "s", {})


def test_one_unusual_item_makes_the_others_no_different():
    items = [
        pb.EvaluationItem(agent_id="agt-1", context=Struct(fields={key: Value(bool_value=True)}))
        for key in ("plain", "é")
    ]
    raw = pb.BatchEvaluatePolicyRequest(items=items).SerializeToString()
    found = READER.batch(raw, decode_batch(raw))

    claims = [dict(question.claims) for question in found if isinstance(question, Question)]
    assert claims == [{"plain": True}, {"é": True}]


def test_a_context_that_is_too_large_is_refused():
    raw = entry("k", Value(string_value="v" * MAX_CONTEXT_BYTES))
    with pytest.raises(InvalidArgument, match="larger than"):
        read(raw)


def test_malformed_requests_are_refused():
    with pytest.raises(InvalidArgument):
        decode_single(b"\xff")
    with pytest.raises(InvalidArgument):
        decode_batch(b"\xff")


def test_only_so_much_is_remembered():
    known = KnownClaims()
    for number in range(KEPT_CLAIMS + 10):
        raw = Struct(fields={"k": Value(string_value=str(number))}).SerializeToString()
        assert known[raw[2:]] == ("k", str(number))
    long = Struct(fields={"k": Value(string_value="v" * KEPT_CLAIM_BYTES)}).SerializeToString()
    before = len(known)

    assert known[long[3:]] == ("k", "v" * KEPT_CLAIM_BYTES)
    assert len(known) == before == 10


def test_values_that_can_be_changed_are_read_anew():
    raw = entry("k", Value(list_value=ListValue(values=[Value(bool_value=True)])))
    one, other = read(raw).claims["k"], read(raw).claims["k"]

    assert one == other == [True]
    assert one is not other
