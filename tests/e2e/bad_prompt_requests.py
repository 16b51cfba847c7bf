"""What prompts must refuse; see `bad_requests.py`."""

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.json_format import ParseDict

from fleetplane.v1 import prompt_service_pb2 as pb
from tests.e2e.bad_requests import NOWHERE, Make, Row, refused, struct, wrong

DIGEST: Final = "sha256:" + "0" * 64


def _here(method: str, **fields: Any) -> Make:
    request = getattr(pb, f"{method}Request")
    return lambda w: ParseDict({"namespace": w.namespace} | fields, request())


def _version(**fields: Any) -> Make:
    stated = {"prompt": "greeting", "text": "Hello", "reason": "why"}
    return _here("CreatePromptVersion", **stated | fields)


def _names() -> Iterator[Row]:
    """Yield what every call about one prompt refuses, and what none of them finds."""
    enough: dict[str, dict[str, Any]] = {
        "GetPromptVersion": {},
        "ListPromptVersions": {},
        "DiffPromptVersions": {"fromVersion": 1, "toVersion": 2},
        "MoveLabel": {"version": 1, "reason": "why"},
        "RemoveLabel": {"label": "staging", "reason": "why"},
        "GetLabelHistory": {},
        "RestorePromptVersion": {"version": 1, "reason": "why"},
        "SetAgentLabel": {"agentName": "reader", "label": "staging", "reason": "why"},
        "UnsetAgentLabel": {"agentName": "reader", "reason": "why"},
        "ResolvePrompt": {},
        "RenderPrompt": {},
        "RecordEvaluation": {
            "version": 1,
            "datasetSha256": DIGEST,
            "scorer": "exact",
            "items": [{"itemId": "a", "scores": [1]}],
        },
        "ListEvaluations": {},
        "ComparePromptVersions": {"candidateVersion": 2, "baselineVersion": 1},
        "SetLabelGate": {"gate": {"datasetSha256": DIGEST, "scorer": "exact"}, "reason": "why"},
        "MarkPromptUsed": {"version": 1, "contentSha256": DIGEST},
    }
    for method, fields in enough.items():
        yield wrong(method, "no name", "prompt", _here(method, **fields))
        yield wrong(method, "a malformed name", "prompt", _here(method, prompt="a b", **fields))
        unknown = _here(method, prompt=NOWHERE, **fields)
        known = {"prompt": NOWHERE}
        yield refused(method, "nobody's", "NOT_FOUND", "PROMPT_NOT_FOUND", unknown, **known)
        if "reason" in fields:
            unsaid = {key: value for key, value in fields.items() if key != "reason"}
            yield wrong(method, "no reason", "reason", _here(method, prompt="greeting", **unsaid))


def _contents() -> Iterator[Row]:
    chat = {"text": "", "messages": [{"role": "user", "content": "hi"}]}
    for what, named, fields in (
        ("no name", "prompt", {"prompt": ""}),
        ("no text", "text", {"text": ""}),
        ("no reason", "reason", {"reason": ""}),
        ("a long reason", "reason", {"reason": "r" * 1_025}),
        ("an unknown type", "type", {"type": 99}),
        ("text and messages", "messages", {"messages": chat["messages"]}),
        ("a chat of text", "text", {"type": "PROMPT_TYPE_CHAT"}),
        ("an unknown role", "messages[0].role", {**chat, "messages": [{"role": "ghost"}]}),
        ("101 messages", "messages", {"text": "", "messages": [{"role": "user"}] * 101}),
        ("an open brace", "text", {"text": "{{"}),
        ("an expression", "text", {"text": "{{a + b}}"}),
        ("a variable twice", "variables[1].name", {"variables": [{"name": "a"}] * 2}),
        ("a variable of no use", "variables.a", {"variables": [{"name": "a"}]}),
        ("a malformed variable", "variables.name", {"variables": [{"name": "a b"}]}),
        ("an unknown kind", "variables[0].type", {"variables": [{"name": "a", "type": 99}]}),
        ("101 variables", "variables", {"variables": [{"name": f"v{n}"} for n in range(101)]}),
        ("a long request id", "request_id", {"requestId": "r" * 129}),
    ):
        yield wrong("CreatePromptVersion", what, named, _version(**fields))
    yield wrong("CreatePromptVersion", "no number", "config.temperature", _not_a_number)
    for what, key, value in (
        ("a text of 257 KiB", "text", "x" * 263_168),
        ("a config of 17 KiB", "config", {"a": "x" * 17_408}),
    ):
        request = _version(**{key: value})
        yield refused("CreatePromptVersion", what, "RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED", request)


def _not_a_number(world: Any) -> pb.CreatePromptVersionRequest:
    request = pb.CreatePromptVersionRequest(
        namespace=world.namespace, prompt="greeting", text="Hello", reason="why"
    )
    request.config.fields["temperature"].number_value = float("nan")
    return request


def _labels() -> Iterator[Row]:
    about: dict[str, Any] = {"prompt": "greeting", "reason": "why"}
    for what, named, fields in (
        ("latest", "label", {"label": "latest", "version": 1}),
        ("a malformed label", "label", {"label": "A", "version": 1}),
        ("no version", "version", {}),
        ("a long override", "override_reason", {"version": 1, "overrideReason": "r" * 1_025}),
    ):
        yield wrong("MoveLabel", what, named, _here("MoveLabel", **about | fields))
    named_wrongly: tuple[tuple[str, dict[str, Any]], ...] = (
        ("RemoveLabel", {"label": "latest"}),
        ("SetAgentLabel", {"agentName": "reader", "label": "latest"}),
        ("RemoveLabel", {}),
        ("SetAgentLabel", {"agentName": "reader"}),
    )
    for method, fields in named_wrongly:
        what = "latest" if fields.get("label") else "no label"
        yield wrong(method, what, "label", _here(method, **about | fields))
    for method in ("SetAgentLabel", "UnsetAgentLabel"):
        request = (
            _here(method, **about, label="staging") if method[0] == "S" else _here(method, **about)
        )
        yield wrong(method, "nobody", "agent_name", request)
    for what, named, gate in (
        ("latest", "gate.label", {"label": "latest"}),
        ("no data set", "gate.dataset_sha256", {"scorer": "exact"}),
        ("no scorer", "gate.scorer", {"datasetSha256": DIGEST}),
        ("nine items", "gate.min_items", {"minItems": 9}),
        ("a drop of all", "gate.max_drop", {"maxDrop": 1}),
        ("no number", "gate.pass_score", {"passScore": "NaN"}),
        ("a huge growth", "gate.max_cost_growth", {"maxCostGrowth": 11}),
        ("a negative growth", "gate.max_latency_growth", {"maxLatencyGrowth": -1}),
    ):
        sound = (
            {}
            if what.startswith("no ") and "number" not in what
            else {
                "datasetSha256": DIGEST,
                "scorer": "exact",
            }
        )
        yield wrong("SetLabelGate", what, named, _here("SetLabelGate", **about, gate=sound | gate))


def _others() -> Iterator[Row]:
    prompt = {"prompt": "greeting"}
    for method in ("GetPromptVersion", "RenderPrompt"):
        both = _here(method, **prompt, version=1, label="staging")
        yield wrong(method, "version and label", "label", both)
        yield wrong(method, "a malformed label", "label", _here(method, **prompt, label="A"))
    for field in ("from_version", "to_version"):
        one = {"fromVersion": 1} if field == "to_version" else {"toVersion": 1}
        yield wrong(
            "DiffPromptVersions", f"no {field}", field, _here("DiffPromptVersions", **prompt, **one)
        )
    yield wrong(
        "RestorePromptVersion",
        "no version",
        "version",
        _here("RestorePromptVersion", **prompt, reason="why"),
    )
    yield wrong(
        "ResolvePrompt",
        "a long session",
        "session_id",
        _here("ResolvePrompt", **prompt, sessionId="s" * 257),
    )
    deep: Any = []
    for _ in range(40):
        deep = [deep]
    yield wrong(
        "RenderPrompt",
        "values nested too deep",
        "variables.*",
        lambda w: pb.RenderPromptRequest(
            namespace=w.namespace, prompt="greeting", variables=struct(a=deep)
        ),
    )
    for method in ("ListPrompts", "ListPromptVersions", "GetLabelHistory", "ListEvaluations"):
        about = {} if method == "ListPrompts" else prompt
        yield wrong(method, "1,001 per page", "page_size", _here(method, **about, pageSize=1_001))
        token = _here(method, **about, pageToken="AAAAAAAAAAAAAAAAAAAAAAAAAAAA")
        yield wrong(method, "a cursor out of thin air", "page_token", token, "INVALID_CURSOR")
    digest = _here("ListEvaluations", **prompt, datasetSha256="md5:1")
    yield wrong("ListEvaluations", "a malformed digest", "dataset_sha256", digest)
    digest = _here("ComparePromptVersions", **prompt, datasetSha256="md5:1")
    yield wrong("ComparePromptVersions", "a malformed digest", "dataset_sha256", digest)
    unsaid: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("no version", "version", {"contentSha256": DIGEST}),
        ("no digest", "content_sha256", {"version": 1}),
        ("a fallback without a digest", "content_sha256", {"isFallback": True}),
    )
    for what, named, fields in unsaid:
        yield wrong("MarkPromptUsed", what, named, _here("MarkPromptUsed", **prompt, **fields))


def _watches() -> Iterator[Row]:
    one = {"prompt": "greeting"}
    for what, named, fields in (
        ("no prompts", "prompts", {}),
        ("1,001 prompts", "prompts", {"prompts": [{"prompt": f"p{n}"} for n in range(1_001)]}),
        ("a malformed name", "prompts[1].prompt", {"prompts": [one, {"prompt": "a b"}]}),
        ("one twice", "prompts[1].prompt", {"prompts": [one, one]}),
        ("a long digest", "prompts[0].held_digest", {"prompts": [{**one, "heldDigest": "d" * 65}]}),
        ("a malformed label", "labels[0]", {"prompts": [one], "labels": ["A"]}),
        ("17 labels", "labels", {"prompts": [one], "labels": [f"l{n}" for n in range(17)]}),
        ("a malformed agent", "agent_name", {"prompts": [one], "agentName": "a b"}),
    ):
        yield wrong("WatchPrompts", what, named, _here("WatchPrompts", **fields))


def _evaluations() -> Iterator[Row]:
    item: dict[str, Any] = {"itemId": "a", "scores": [1]}
    sound: dict[str, Any] = {
        "prompt": "greeting",
        "version": 1,
        "datasetSha256": DIGEST,
        "scorer": "exact",
        "items": [item],
    }
    for what, named, fields in (
        ("no version", "version", {"version": 0}),
        ("no data set", "dataset_sha256", {"datasetSha256": ""}),
        ("no scorer", "scorer", {"scorer": ""}),
        ("a long model", "model", {"model": "m" * 257}),
        ("no items", "items", {"items": []}),
        ("10,001 items", "items", {"items": [{"itemId": str(n)} for n in range(10_001)]}),
        ("no id", "items[0].item_id", {"items": [{"scores": [1]}]}),
        ("one twice", "items[1].item_id", {"items": [item, item]}),
        ("no scores", "items[0].scores", {"items": [{"itemId": "a"}]}),
        ("21 trials", "items[0].scores", {"items": [{"itemId": "a", "scores": [1] * 21}]}),
        ("a score of 2", "items[0].scores", {"items": [{"itemId": "a", "scores": [2]}]}),
        ("no number", "items[0].scores", {"items": [{"itemId": "a", "scores": ["NaN"]}]}),
        ("half the outcomes", "items[0].passed", {"items": [{**item, "passed": [True, True]}]}),
        ("a negative cost", "items[0].cost", {"items": [{**item, "cost": -1}]}),
        ("no latency", "items[0].latency_ms", {"items": [{**item, "latencyMs": "Infinity"}]}),
    ):
        yield wrong("RecordEvaluation", what, named, _here("RecordEvaluation", **sound | fields))


ROWS: Final = (
    *_names(),
    *_contents(),
    *_labels(),
    *_others(),
    *_watches(),
    *_evaluations(),
)
"""All of them."""
