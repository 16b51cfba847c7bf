"""Why a call through a real channel is refused."""

from typing import Any

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no stubs
from grpc_status import rpc_status as typed_rpc_status

rpc_status: Any = typed_rpc_status  # the published stubs know only synchronous errors


async def refused(call: Any) -> str:
    """Return the reason that a call is refused with; empty if it is answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        info = error_details_pb2.ErrorInfo()
        for packed in rpc_status.from_call(error).details:
            if packed.Unpack(info):
                return str(info.reason)
        return error.code().name
    return ""
