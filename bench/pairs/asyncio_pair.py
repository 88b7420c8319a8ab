#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench/pairs/asyncio_pair.py serve ADDRESS | talk ADDRESS CONNECTIONS SIZE WARMUP SECONDS

Request-response with asyncio's streams. ADDRESS is a port of 127.0.0.1 (0: any; the server prints "ready PORT"), or a
path. talk prints one JSON object."""

import asyncio
import json
import signal
import sys
import time


async def answer(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


async def serve(address):
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if address.startswith("/"):
        server = await asyncio.start_unix_server(answer, address)
        print("ready", address, flush=True)
    else:
        server = await asyncio.start_server(answer, "127.0.0.1", int(address))
        print("ready", server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await stop.wait()


async def exchange(address, size, begin, end, latencies):
    connect = asyncio.open_unix_connection(address) if address.startswith("/") else \
        asyncio.open_connection("127.0.0.1", int(address))
    reader, writer = await connect
    request = b"x" * size
    while (now := time.perf_counter()) < end:
        writer.write(request)
        if await reader.readexactly(size) != request:
            raise SystemExit("wrong reply")
        if now >= begin:
            latencies.append(time.perf_counter() - now)
    writer.close()


async def talk(address, connections, size, warmup, seconds):
    begin = time.perf_counter() + warmup
    latencies = []
    await asyncio.gather(*(exchange(address, size, begin, begin + seconds, latencies) for _ in range(connections)))
    took = time.perf_counter() - begin
    latencies.sort()

    def quantile(fraction):
        return round(latencies[int(fraction * (len(latencies) - 1))] * 1e6, 1)

    print(json.dumps({"per_second": len(latencies) / took, "p50_us": quantile(0.5), "p99_us": quantile(0.99),
                      "p999_us": quantile(0.999)}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(sys.argv[2]))
    else:
        asyncio.run(talk(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), float(sys.argv[6])))
