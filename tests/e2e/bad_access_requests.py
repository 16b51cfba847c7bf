"""What credentials, rights and namespaces must refuse; see `bad_requests.py`."""

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from fleetplane.v1 import access_service_pb2 as access_pb
from fleetplane.v1 import identity_service_pb2 as identity_pb
from fleetplane.v1 import namespace_service_pb2 as namespace_pb
from tests.e2e.bad_requests import Make, Row, refused, wrong

GARBAGE: Final = b"\xff\xff\xff\xff"

_TYPES: Final[dict[str, type[Message]]] = {
    name.removesuffix("Request"): getattr(module, name)
    for module in (access_pb, identity_pb, namespace_pb)
    for name in vars(module)
    if name.endswith("Request")
}


def _here(method: str, **fields: Any) -> Make:
    return lambda w: ParseDict({"namespace": w.namespace} | fields, _TYPES[method]())


def _plain(method: str, **fields: Any) -> Make:
    return lambda _: ParseDict(fields, _TYPES[method]())


def _identity() -> Iterator[Row]:
    for method in ("Enroll", "RenewCertificate", "WhoAmI"):
        yield wrong(method, "garbage", "(request)", lambda _: GARBAGE)
    yield refused(
        "Enroll",
        "without an authority",
        "FAILED_PRECONDITION",
        "NO_CERTIFICATE_AUTHORITY",
        _plain("Enroll", joinToken="jt-0." + "A" * 43, agentName="writer", csr="x"),
    )
    for what, named, fields in (
        ("another namespace's shape", "namespace", {"namespace": "UP"}),
        ("a name that none can have", "agent_name_pattern", {"agentNamePattern": "../x"}),
        ("a million and one uses", "max_uses", {"maxUses": 1_000_001}),
        ("a moment", "ttl", {"ttl": "0.5s"}),
        ("a year and a day", "ttl", {"ttl": "31622400s"}),
        ("a long story", "description", {"description": "d" * 257}),
        ("a long request_id", "request_id", {"requestId": "r" * 129}),
    ):
        yield wrong("CreateJoinToken", what, named, _here("CreateJoinToken", **fields))
    for what, named, fields in (
        ("no name", "name", {"role": "viewer"}),
        ("a long name", "name", {"role": "viewer", "name": "n" * 129}),
        ("a name with a bell", "name", {"role": "viewer", "name": "a\x07"}),
        ("no role", "role", {"name": "ci"}),
        ("an unknown role", "role", {"name": "ci", "role": "god"}),
        ("eleven years", "ttl", {"name": "ci", "role": "viewer", "ttl": "346896000s"}),
        ("a negative life", "ttl", {"name": "ci", "role": "viewer", "ttl": "-1s"}),
        ("a wrong namespace", "namespace", {"name": "c", "role": "viewer", "namespace": "**"}),
    ):
        yield wrong("CreateApiToken", what, named, _here("CreateApiToken", **fields))
    for method, nowhere in (("RevokeJoinToken", "jt-0"), ("RevokeApiToken", "at-0")):
        yield refused(
            method,
            "no such token",
            "NOT_FOUND",
            "TOKEN_NOT_FOUND",
            _here(method, tokenId=nowhere),
            token_id=nowhere,
        )
        yield wrong(method, "nothing", "token_id", _here(method))
        reason = _here(method, tokenId=nowhere, reason="r" * 1025)
        yield wrong(method, "a long reason", "reason", reason)
    for method in ("BanAgent", "UnbanAgent"):
        yield wrong(method, "nobody", "agent_name", _here(method))
        yield wrong(method, "a path", "agent_name", _here(method, agentName="../writer"))
        yield wrong(
            method, "a long reason", "reason", _here(method, agentName="w", reason="r" * 1025)
        )
    for method in ("ListJoinTokens", "ListApiTokens", "ListBans", "ListRoleBindings"):
        yield wrong(method, "1,001 per page", "page_size", _here(method, pageSize=1001))
        yield wrong(
            method,
            "a cursor out of thin air",
            "page_token",
            _here(method, pageToken="AAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            reason="INVALID_CURSOR",
        )


def _access() -> Iterator[Row]:
    yield wrong("ListRoles", "garbage", "(request)", lambda _: GARBAGE)
    good = {"subject": "user:ann", "role": "viewer"}
    for what, named, fields in (
        ("nobody", "subject", good | {"subject": ""}),
        ("no kind", "subject", good | {"subject": "ann"}),
        ("a kind without a name", "subject", good | {"subject": "user:"}),
        ("an unknown kind", "subject", good | {"subject": "robot:r2"}),
        ("a hidden name", "subject", good | {"subject": "user:a\u202eb"}),
        ("a long name", "subject", good | {"subject": "user:" + "a" * 512}),
        ("any trust domain", "subject", good | {"subject": "spiffe://*/ns/a"}),
        ("a rest in the middle", "subject", good | {"subject": "spiffe://d/**/a"}),
        ("no role", "role", good | {"role": ""}),
        ("an unknown role", "role", good | {"role": "root"}),
        ("a long story", "description", good | {"description": "d" * 257}),
        ("no time", "ttl", good | {"ttl": "0s"}),
        ("a wrong namespace", "namespace", good | {"namespace": "a b"}),
    ):
        yield wrong("CreateRoleBinding", what, named, _here("CreateRoleBinding", **fields))
    yield wrong("DeleteRoleBinding", "nothing", "binding_id", _here("DeleteRoleBinding"))
    yield wrong("CheckAccess", "nothing", "action", _here("CheckAccess"))
    yield wrong("CheckAccess", "an unknown action", "action", _here("CheckAccess", action="fly"))
    yield wrong(
        "CheckAccess",
        "a wrong subject",
        "subjects*",
        _here("CheckAccess", action="read", subjects=["ann"]),
    )


def _namespaces() -> Iterator[Row]:
    labels = {f"k{i}": "v" for i in range(65)}
    for what, named, fields in (
        ("nothing", "name", {}),
        ("capitals", "name", {"name": "Acme"}),
        ("the system's own", "name", {"name": "@system"}),
        ("64 characters", "name", {"name": "a" * 64}),
        ("a path", "name", {"name": "../a"}),
        ("a long story", "description", {"name": "a", "description": "d" * 1025}),
        ("65 labels", "labels*", {"name": "a", "labels": labels}),
        ("a long label", "labels*", {"name": "a", "labels": {"k": "v" * 257}}),
        ("an empty label", "labels*", {"name": "a", "labels": {"": "v"}}),
    ):
        yield wrong("CreateNamespace", what, named, _plain("CreateNamespace", **fields))
    yield refused(
        "CreateNamespace",
        "what exists always",
        "ALREADY_EXISTS",
        "NAMESPACE_EXISTS",
        _plain("CreateNamespace", name="default"),
        namespace="default",
    )
    for method in ("GetNamespace", "GetUsage", "UpdateNamespace"):
        wanted = _plain(method, namespace="no such!")
        yield wrong(method, "a wrong name", "namespace", wanted)
    yield wrong("DeleteNamespace", "nothing", "namespace", _plain("DeleteNamespace"))
    yield wrong(
        "DeleteNamespace",
        "what must stay",
        "namespace",
        _plain("DeleteNamespace", namespace="default"),
    )
    yield refused(
        "DeleteNamespace",
        "what is in use",
        "FAILED_PRECONDITION",
        "NAMESPACE_NOT_EMPTY",
        _here("DeleteNamespace"),
    )
    yield wrong("ListNamespaces", "1,001", "page_size", _plain("ListNamespaces", pageSize=1001))
    yield wrong(
        "ListNamespaces",
        "a cursor out of thin air",
        "page_token",
        _plain("ListNamespaces", pageToken="AAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        reason="INVALID_CURSOR",
    )


ROWS: Final = (*_identity(), *_access(), *_namespaces())
