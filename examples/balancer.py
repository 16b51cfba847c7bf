# ruff: noqa: T201, INP001  # an example shows what it does, and is no package
"""A TCP load balancer to practise with: new connections go to the backends in turn.

It passes bytes on and holds no key: TLS is between the caller and the daemon. A backend that takes
no connection is passed over. It asks nobody for their health; a real one should.

    python examples/balancer.py 127.0.0.1:50051=127.0.0.1:50061,127.0.0.1:50071
"""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Iterator

CONNECT_SECONDS = 2.0
CHUNK_BYTES = 64 * 1024


async def connected(
    backends: Iterator[str], tries: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection to the next backend that takes one; raises ConnectionError."""
    for backend in itertools.islice(backends, tries):
        host, _, port = backend.rpartition(":")
        with contextlib.suppress(OSError):
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncio.open_connection(host, int(port))
    raise ConnectionError("no backend takes connections")


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until their source ends."""
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()


async def join(
    near: tuple[asyncio.StreamReader, asyncio.StreamWriter], backends: Iterator[str], tries: int
) -> None:
    """Serve one connection; when one side ends it, so does the other."""
    with contextlib.closing(near[1]), contextlib.suppress(OSError):
        far = await connected(backends, tries)
        with contextlib.closing(far[1]):
            ways = {
                asyncio.create_task(pass_on(near[0], far[1])),
                asyncio.create_task(pass_on(far[0], near[1])),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)


async def main(rules: list[str]) -> None:
    """Listen as the rules say, `ADDRESS=BACKEND,BACKEND...`, until the process is ended."""
    async with contextlib.AsyncExitStack() as servers, asyncio.TaskGroup() as connections:
        for rule in rules:
            address, _, listed = rule.partition("=")
            backends = listed.split(",")
            turns, tries = itertools.cycle(backends), len(backends)

            def serve(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                turns: Iterator[str] = turns,
                tries: int = tries,
            ) -> None:
                connections.create_task(join((reader, writer), turns, tries))

            host, _, port = address.rpartition(":")
            await servers.enter_async_context(await asyncio.start_server(serve, host, int(port)))
            print(f"{address} -> {', '.join(backends)}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1:]))
