import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.agents import Activation, Agent, AgentSpec, AgentStatus, Instance
from controlplane.domain.configs.layers import ConfigLayer, LayerKind, LayerScope
from controlplane.domain.prompts.evaluations import Evaluation
from controlplane.domain.prompts.model import (
    Label,
    LabelGate,
    LabelMove,
    Prompt,
    PromptContent,
    PromptMessage,
    PromptPin,
    PromptType,
    PromptVersion,
)
from controlplane.storage.redis.codec import (
    UnreadableRecord,
    decode_frame,
    decode_history_entry,
    decode_value,
    encode_value,
)
from fleetplane_policy.model import Effect, Policy, PolicyScope, Target
from fleetplane_prompts import VariableSpec, VariableType
from tests.fakes.transactions import agent

text = st.text(max_size=20)
json_leaf = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text
json = st.recursive(
    json_leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)
)


def frame(value: object, header: bytes = b"7 5 2000 1000") -> bytes:
    return header + b"\n" + encode_value(value)


@pytest.mark.parametrize(
    "value",
    [
        "text with \n newline and é",
        "",
        Agent(
            agent_id="a",
            spec=AgentSpec(
                name="n",
                version="1.0.0",
                capabilities=("x", "y"),
                tags={"k": "v"},
                activation=Activation.MANUAL,
                lost_after_ms=5,
            ),
            status=AgentStatus.DEGRADED,
            status_reason="slow",
        ),
        Instance(instance_id="i", agent_id="a", endpoint="http://x"),
        ConfigLayer(
            scope=LayerScope(LayerKind.AGENT_ID, "a"),
            values={"temperature": 0.1, "tools": ["a"], "extra": {}},
            may_widen=frozenset({"tools"}),
        ),
        Prompt(
            name="p",
            latest_version=2,
            latest_sha256="sha256:0",
            labels={"production": Label(version=1, moved_by="a")},
            agent_labels={"writer": "canary"},
            gates={"production": LabelGate(scorer="s", critical_items=("a",))},
        ),
        Prompt(name="p", latest_version=1, latest_sha256="sha256:0"),
        PromptVersion(
            prompt="p",
            version=1,
            content=PromptContent(
                type=PromptType.CHAT,
                messages=(PromptMessage(role="user", content="{{n}}"),),
                variables={"n": VariableSpec(type=VariableType.NUMBER)},
                config={"a": [1, {"b": None}]},
            ),
            content_sha256="sha256:0",
            size_bytes=5,
        ),
        PromptPin(prompt="p", agent_name="", session_id="s", version=1),
        LabelMove(label="a", from_version=0, to_version=1, moved_by="a", reason="b"),
        Evaluation(
            evaluation_id="e",
            prompt="p",
            version=1,
            content_sha256="",
            dataset_sha256="",
            scorer="s",
        ),
        Policy(
            policy_id="p",
            action=Effect.REQUIRE_APPROVAL,
            conditions={"all": [{"a": 1}, {"b": {"in": ["x"]}}]},
            targets=Target(actions=("x.*",)),
            scope=PolicyScope(agent_name="n"),
            not_after_ms=5,
        ),
        None,
        17,
        [1, "two", None],
        {"a": {"b": [True]}},
    ],
)
def test_a_value_survives(value):
    assert decode_value(encode_value(value), "it") == value


@given(json)
def test_plain_data_survives(value):
    assert decode_value(encode_value(value), "it") == value


@given(st.dictionaries(text, json, max_size=4))
def test_the_values_of_a_layer_survive(values):
    layer = ConfigLayer(scope=LayerScope(LayerKind.NAMESPACE), values=values)
    assert decode_value(encode_value(layer), "it") == layer


def test_a_frame_fills_in_what_the_store_knows():
    record = decode_frame("a", frame(agent("a")))
    assert (record.key, record.revision, record.generation) == ("a", 7, 5)
    assert (record.updated_at_ms, record.created_at_ms) == (2000, 1000)
    value = record.value
    assert (value.revision, value.updated_at_ms, value.registered_at_ms) == (7, 2000, 1000)
    started = decode_frame("i", frame(Instance(instance_id="i", agent_id="a", generation=99))).value
    assert (started.revision, started.generation) == (7, 5)


def test_what_the_writer_claimed_does_not_count():
    claimed = Agent(agent_id="a", spec=agent("a").spec, revision=99, registered_at_ms=98)
    assert decode_frame("a", frame(claimed)).value.revision == 7


def test_a_history_entry_fills_in_its_revision_and_time():
    layer = ConfigLayer(scope=LayerScope(LayerKind.NAMESPACE))
    record = decode_history_entry("h", 4, 1000, encode_value(layer))
    assert (record.key, record.revision, record.value.revision) == ("h", 4, 4)
    assert record.value.updated_at_ms == 1000


def test_fields_of_a_neighbouring_release_do_no_harm():
    """One more field than we know, and one less, as during a rolling update."""
    fields = msgspec.msgpack.decode(encode_value(agent("a"))[2:])
    fields["invented_later"] = {"x": 1}
    del fields["status_reason"]
    data = encode_value(agent("a"))[:2] + msgspec.msgpack.encode(fields)
    assert decode_value(data, "it") == agent("a")


@pytest.mark.parametrize(
    "data",
    [b"", b"\x02", b"\x02\x02\x80", b"\xee\x01\x80", b"\x02\x01\x80", b"\x02\x01garbage"],
    ids=["empty", "cut", "newer version", "newer type", "fields missing", "garbage"],
)
def test_what_cannot_be_understood_is_refused_by_name(data):
    with pytest.raises(UnreadableRecord, match="the thing"):
        decode_value(data, "the thing")


@pytest.mark.parametrize("header", [b"", b"1 2 3", b"1 2 3 x", b"1 2 3 4 5"])
def test_a_damaged_header_is_refused(header):
    with pytest.raises(UnreadableRecord, match="'a'"):
        decode_frame("a", frame("v", header))


def test_an_unregistered_type_is_a_defect_of_the_caller():
    with pytest.raises(TypeError, match="complex"):
        encode_value(1j)
