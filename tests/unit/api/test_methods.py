import importlib
import pkgutil

import pytest
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import fleetplane.v1
from controlplane.api.methods import METHODS, RateClass
from controlplane.domain.access.permissions import Permission


def files() -> list[FileDescriptor]:
    generated = [
        importlib.import_module(f"fleetplane.v1.{module.name}")
        for module in pkgutil.iter_modules(fleetplane.v1.__path__)
        if module.name.endswith("_pb2")
    ]
    return [m.DESCRIPTOR for m in (*generated, health_pb2, channelz_pb2, reflection_pb2)]


def rpcs() -> dict[str, MethodDescriptor]:
    return {
        f"/{service.full_name}/{method.name}": method
        for file in files()
        for service in file.services_by_name.values()
        for method in service.methods
    }


REFLECTION_V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


def test_every_rpc_has_a_row_and_every_row_an_rpc():
    assert set(METHODS) == {*rpcs(), REFLECTION_V1}


def test_only_unary_calls_have_a_deadline():
    for name, method in rpcs().items():
        is_unary = not (method.client_streaming or method.server_streaming)
        assert (METHODS[name].max_deadline_seconds is not None) == is_unary, name


@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_a_row_is_consistent(row):
    if row.audited:
        assert row.permission not in {Permission.READ, Permission.AUDIT, Permission.DIAGNOSE}
    if row.permission is Permission.OPERATE:
        assert row.audited
    if row.is_infrastructure:
        assert row.rate_class is RateClass.FREE
    assert row.name == f"/{row.service}/{row.name.rpartition('/')[2]}"
