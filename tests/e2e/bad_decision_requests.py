"""What the log of decisions must refuse; see `bad_requests.py`."""

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.json_format import ParseDict

from fleetplane.v1 import decision_service_pb2 as pb
from tests.e2e.bad_requests import NOWHERE, Make, Row, deep, nan, refused, struct, wrong

UNKNOWN: Final = "dec-000000000001-00000000-00000001"
MADE: Final = {
    "decision": {
        "decisionId": UNKNOWN,
        "action": "POLICY_ACTION_DENY",
        "reason": "REASON_POLICY",
    },
    "action": "read",
    "madeAt": "2026-01-01T00:00:00Z",
}


def _here(method: str, **fields: Any) -> Make:
    request = getattr(pb, f"{method}Request")
    return lambda w: ParseDict({"namespace": w.namespace} | fields, request())


def _searches() -> Iterator[Row]:
    for method in ("GetDecision", "ExplainDecision"):
        for what, decision_id in (("no id", ""), ("another id", "agt-1"), ("half an id", "dec-1")):
            request = _here(method, decisionId=decision_id)
            yield wrong(method, what, "decision_id", request)
        yield refused(
            method,
            "an unknown decision",
            "NOT_FOUND",
            "DECISION_NOT_FOUND",
            _here(method, decisionId=UNKNOWN),
            decision_id=UNKNOWN,
        )

    def query(**fields: Any) -> Make:
        return _here("QueryDecisions", **fields)

    yield wrong("QueryDecisions", "a large page", "page_size", query(pageSize=1001))
    yield wrong(
        "QueryDecisions", "a foreign token", "page_token", query(pageToken="x"), "INVALID_CURSOR"
    )
    yield wrong("QueryDecisions", "no glob", "action", query(action="***"))
    yield wrong("QueryDecisions", "an unknown effect", "effects", query(effects=[99]))
    yield wrong("QueryDecisions", "no effect", "effects", query(effects=[0]))
    yield wrong("QueryDecisions", "an unknown reason", "reasons", query(reasons=[99]))
    yield wrong(
        "QueryDecisions",
        "an end before the beginning",
        "to",
        query(**{"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}),
    )


def _reports() -> Iterator[Row]:
    def report(*decisions: Any, **fields: Any) -> Make:
        def make(w: Any) -> pb.RecordDecisionsRequest:
            stated = {"namespace": w.namespace, "agentId": w.agent_id, "batchId": "b"} | fields
            request = ParseDict(stated, pb.RecordDecisionsRequest())
            for one in decisions:
                request.decisions.add().CopyFrom(one)
            return request

        return make

    def made(**fields: Any) -> pb.LocalDecision:
        return ParseDict(MADE | fields, pb.LocalDecision())

    def said(**fields: Any) -> pb.LocalDecision:
        return made(decision=MADE["decision"] | fields)  # type: ignore[operator]  # a dictionary

    def with_context(context: Any) -> pb.LocalDecision:
        one = made()
        one.context.CopyFrom(context)
        return one

    name = "RecordDecisions"
    yield wrong(name, "nobody", "agent_id", report(agentId=""))
    yield wrong(name, "no batch", "batch_id", report(batchId=""))
    yield wrong(name, "a long batch", "batch_id", report(batchId="b" * 129))
    yield wrong(name, "501 decisions", "decisions", report(*[made()] * 501))
    yield wrong(name, "no action", "decisions[0].action", report(made(action="")))
    yield wrong(name, "a tool with a quote", "decisions[0].tool", report(made(tool='"')))
    yield wrong(
        name, "a long session", "decisions[0].session_id", report(made(sessionId="s" * 257))
    )
    yield wrong(
        name, "a day to come", "decisions[0].made_at", report(made(madeAt="2999-01-01T00:00:00Z"))
    )
    yield wrong(name, "no time", "decisions[0].made_at", report(made(madeAt=None)))
    yield wrong(name, "a long latency", "decisions[0].latency", report(made(latency="3601s")))
    yield wrong(
        name, "a long digest", "decisions[0].policy_digest", report(made(policyDigest="d" * 257))
    )
    yield wrong(
        name, "no id", "decisions[0].decision.decision_id", report(said(decisionId="dec-1"))
    )
    yield wrong(name, "no answer", "decisions[0].decision.action", report(said(action=0)))
    yield wrong(name, "no reason", "decisions[0].decision.reason", report(said(reason=0)))
    yield wrong(
        name,
        "a long policy",
        "decisions[0].decision.determining_policies",
        report(said(determiningPolicies=["p" * 257])),
    )
    yield wrong(
        name, "a long message", "decisions[0].decision.message", report(said(message="m" * 4097))
    )
    yield wrong(name, "no number", "decisions[0].context.x", report(with_context(nan("x"))))
    yield wrong(name, "a deep context", "decisions[0].context*", report(with_context(deep())))
    yield wrong(
        name,
        "a huge context",
        "decisions[0].context",
        report(with_context(struct(blob="b" * 70_000))),
    )
    yield wrong(name, "a gap without its time", "lost_from", report(numberLost=1))
    yield refused(
        name,
        "an unknown agent",
        "NOT_FOUND",
        "AGENT_NOT_FOUND",
        report(agentId=NOWHERE),
        agent_id=NOWHERE,
    )


ROWS: Final = (*_searches(), *_reports())
