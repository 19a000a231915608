"""A socket in front of an engine's: stopped (SIGSTOP) it is an engine that hangs, ended one that is down.

python -m tests.faults.engine_proxy LISTEN TARGET
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def serve(listen: Path, target: str) -> None:
    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(target)
        try:
            await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))
        finally:
            writer.close()
            there_writer.close()

    listen.unlink(missing_ok=True)  # noqa: ASYNC240  (before anything is served)
    server = await asyncio.start_unix_server(pass_on, listen)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
