"""Owns the producer: a process of its own that sends a load through the public API and notes when each batch was acknowledged.

Reads one JSON line for each run, prepares, prints `{"ready": true}`, waits for a line, sends, and prints what came of it.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from load import Batch, Phase, batches

from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2 import IngestEventsResponse, StreamEventsResponse

_SERVICE = "/cairn.api.evaluator.v1.EvaluatorService"


class Record:
    """What became of a phase: [first place, places, the events' time, acknowledged at] of each batch, in microseconds."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int]] = []
        self.events = 0
        self.refused = 0
        self.overloaded = 0
        self.began_us = self.ended_us = 0

    def taken(self, batch: Batch, time_us: int, accepted: int) -> None:
        self.events += accepted
        self.refused += batch.events - accepted
        self.rows.append((batch.first, batch.count, time_us, _now_us()))

    def to_json(self) -> dict[str, Any]:
        return {**vars(self)}


async def streams(channel: grpc.aio.Channel, phase: Phase, prepared: Sequence[Batch], record: Record) -> None:
    """Sends in as many streams as are asked for, batches dealt out in turn."""
    shares = [range(first, len(prepared), phase.streams) for first in range(phase.streams)]
    await asyncio.gather(*(stream(channel, phase, prepared, share, record) for share in shares))


async def stream(
    channel: grpc.aio.Channel, phase: Phase, prepared: Sequence[Batch], numbers: range, record: Record
) -> None:
    """Sends some of the batches in one stream, `window` under way."""
    call = channel.stream_stream(
        f"{_SERVICE}/StreamEvents",
        request_serializer=None,
        response_deserializer=StreamEventsResponse.FromString,
    )()
    under_way: dict[int, int] = {}
    room = asyncio.Semaphore(phase.window)
    again: asyncio.Queue[tuple[float, int]] = asyncio.Queue()
    all_in = asyncio.Event()
    missing = len(numbers)

    async def receive() -> None:
        nonlocal missing
        while missing:
            answer = await call.read()
            if answer is grpc.aio.EOF:
                raise RuntimeError("the stream ended early")
            batch = prepared[answer.sequence]
            if answer.HasField("error"):
                record.overloaded += 1
                delay = answer.error.retry_delay.ToTimedelta().total_seconds()
                again.put_nowait((time.monotonic() + max(delay, 0.05), answer.sequence))
                continue
            record.taken(batch, under_way.pop(answer.sequence), answer.accepted)
            room.release()
            missing -= 1
        all_in.set()

    async def repeat() -> None:
        while True:
            at, sequence = await again.get()
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            await call.write(prepared[sequence].at(under_way[sequence]))

    helpers = [asyncio.create_task(receive()), asyncio.create_task(repeat())]
    began = time.monotonic()
    for number in numbers:
        batch = prepared[number]
        if phase.rate:
            await asyncio.sleep(max(0.0, began + number * batch.events / phase.rate - time.monotonic()))
        await room.acquire()
        time_us = record.began_us if phase.together else _now_us()
        under_way[number] = time_us
        await call.write(batch.at(time_us))
    waiting = asyncio.create_task(all_in.wait())
    done, _ = await asyncio.wait((waiting, helpers[0]), return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, *helpers):
        task.cancel()
    for task in done:
        task.result()
    call.cancel()


async def unary(channel: grpc.aio.Channel, phase: Phase, prepared: Iterable[Batch], record: Record) -> None:
    """Sends one event a call, `window` calls at a time."""
    ingest = channel.unary_unary(
        f"{_SERVICE}/IngestEvents",
        request_serializer=None,
        response_deserializer=IngestEventsResponse.FromString,
    )
    source = iter(prepared)
    began = time.monotonic()
    sent = 0

    async def work() -> None:
        nonlocal sent
        for batch in source:
            place, sent = sent, sent + 1
            if phase.rate:
                await asyncio.sleep(max(0.0, began + place / phase.rate - time.monotonic()))
            time_us = record.began_us if phase.together else _now_us()
            while True:
                try:
                    answer = await ingest(batch.at(time_us), timeout=30)
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
                    record.overloaded += 1
                    await asyncio.sleep(0.5)
            record.taken(batch, time_us, answer.accepted)

    await asyncio.gather(*(work() for _ in range(phase.window)))


async def run(address: str, phases: Sequence[Phase], revision: int) -> list[dict[str, Any]]:
    prepared = [list(batches(phase, revision)) for phase in phases]
    options = [("grpc.max_send_message_length", 1 << 26), ("grpc.max_receive_message_length", 1 << 26)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        # The connection and the server's first call are no part of what is measured.
        await channel.unary_unary(
            f"{_SERVICE}/GetProfile", request_serializer=pb.GetProfileRequest.SerializeToString
        )(pb.GetProfileRequest(name="profiles/-"), wait_for_ready=True).code()
        _say({"ready": True})
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        records = []
        for phase, requests in zip(phases, prepared, strict=True):
            record = Record()
            record.began_us = _now_us()
            await (unary if phase.unary else streams)(channel, phase, requests, record)
            record.ended_us = _now_us()
            records.append(record.to_json())
        return records


def _now_us() -> int:
    return time.time_ns() // 1_000


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    for line in sys.stdin:
        wanted = json.loads(line)
        phases = [Phase(**each) for each in wanted["phases"]]
        _say({"records": asyncio.run(run(wanted["address"], phases, wanted["revision"]))})


if __name__ == "__main__":
    main()
