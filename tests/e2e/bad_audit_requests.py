"""What the audit must refuse; see `bad_requests.py`."""

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.json_format import ParseDict

from fleetplane.v1 import audit_service_pb2 as pb
from tests.e2e.bad_requests import Make, Row, refused, wrong

HEAD: Final = "0" * 64
BEYOND: Final = 2**53 + 1


def _here(method: str, **fields: Any) -> Make:
    request = getattr(pb, f"{method}Request")
    return lambda w: ParseDict({"namespace": w.namespace} | fields, request())


def _rows() -> Iterator[Row]:
    for method in (
        "ListEvents",
        "WatchEvents",
        "GetAuditStatus",
        "VerifyAudit",
        "ExportAudit",
        "ConfirmAuditExport",
        "TrimAudit",
    ):
        yield wrong(method, "a shouting namespace", "namespace", _here(method, namespace="UP"))
        yield wrong(method, "another system", "namespace", _here(method, namespace="@other"))
    for method in ("ListEvents", "WatchEvents"):
        for field in ("actor", "method", "objectPrefix", "event"):
            request = _here(method, filter={field: "x" * 257})
            named = "filter.object_prefix" if field == "objectPrefix" else f"filter.{field}"
            yield wrong(method, f"a long {field}", named, request)
    for method in ("ListEvents", "WatchEvents", "ExportAudit"):
        request = _here(method, afterSequence=BEYOND)
        yield wrong(method, "a number that none has", "after_sequence", request)
    yield wrong(
        "ListEvents",
        "a number too high",
        "before_sequence",
        _here("ListEvents", beforeSequence=BEYOND),
    )
    yield wrong("ListEvents", "1,001 per page", "page_size", _here("ListEvents", pageSize=1001))
    yield wrong(
        "ListEvents",
        "a cursor out of thin air",
        "page_token",
        _here("ListEvents", pageToken="AAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        reason="INVALID_CURSOR",
    )
    yield wrong(
        "ExportAudit",
        "no end of a seal",
        "after_sequence",
        _here("ExportAudit", afterSequence=10**6),
    )
    yield wrong(
        "VerifyAudit",
        "half a head",
        "expected.head",
        _here("VerifyAudit", expected={"head": "abc"}),
    )
    for method in ("ConfirmAuditExport", "TrimAudit"):
        for what, named, checkpoint in (
            ("nothing", "checkpoint.sequence", {}),
            ("no head", "checkpoint.head", {"sequence": 1}),
            ("no sequence", "checkpoint.sequence", {"head": HEAD}),
        ):
            yield wrong(method, what, named, _here(method, checkpoint=checkpoint))
        good = {"sequence": 1, "head": HEAD}
        yield wrong(
            method, "a long reason", "reason", _here(method, checkpoint=good, reason="r" * 1025)
        )
        yield refused(
            method,
            "a head that was never there",
            "FAILED_PRECONDITION",
            "AUDIT_NOT_EXPORTED",
            _here(method, checkpoint={"sequence": 10**6, "head": HEAD}),
        )


ROWS: Final = tuple(_rows())
