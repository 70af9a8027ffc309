"""`cairn journeys` and `cairn segments` against a real Definition, as a program sees them."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.definition.v1.journey_pb2 import JourneyState

FILE = """\
name: abandoned-cart
type: REAL_TIME
stages:
  - name: cart
    entry: event.name == "cart_add" && in_segment("loud")
    steps:
      - wait: {duration: 3h}
      - activation: {channel: email, template: welcome}
---
segment: {name: loud, criteria: in_segment("vip") && profile.loud}
---
segment: {name: vip, criteria: profile.spent > 1000.0}
"""


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def cairn(definition, destinations):
    """Run `cairn` with these arguments against the service."""
    environment = {
        **os.environ,
        "CAIRN_DEFINITION_ADDRESS": f"127.0.0.1:{definition.service.grpc_port}",
        "CAIRN_ACTIVATION_ADDRESS": destinations.address,
    }

    async def run(*arguments: str, text: str = "", terminal: int | None = None) -> Done:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cairn.cli.main", *arguments),
            env=environment,
            stdin=PIPE if terminal is None else terminal,
            stdout=PIPE,
            stderr=PIPE,
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate(text.encode() if terminal is None else None)
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture
async def watcher(definition) -> AsyncIterator[None]:
    """A process that serves whatever it hears of, as an Evaluator does."""

    async def serve() -> None:
        call = definition.watch()
        while (answer := await call.read()) is not grpc.aio.EOF:
            request = pb.AcknowledgeRevisionRequest(watcher="w1", revision=answer.revision)
            await definition.stub.AcknowledgeRevision(request)

    task = asyncio.create_task(serve())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.usefixtures("watcher")
async def test_segments_and_journeys_of_a_file_are_applied_in_the_order_that_they_need(
    definition, cairn
) -> None:
    done = await cairn("apply", "-f", "-", "--json", text=FILE)
    assert (done.code, done.err) == (0, "")
    assert done.documents == [
        {"kind": "segment", "name": "vip", "result": "created"},
        {"kind": "segment", "name": "loud", "result": "created"},
        {"kind": "journey", "name": "abandoned-cart", "result": "published", "version": 1},
        {"revision": 1, "live": ["w1"]},
    ]
    done = await cairn("apply", "-f", "-", "--json", text=FILE.replace("1000.0", "2000.0"))
    assert [one.get("result") for one in done.documents] == ["updated", "unchanged", "published", None]
    assert (await definition.changes()).versions[1].segments[1].criteria == "profile.spent > 2000.0"
    segments = "---".join(FILE.split("---")[1:])
    done = await cairn("apply", "-f", "-", text=segments)
    assert (done.code, "keep the old criteria" in done.err) == (0, True)


async def test_what_definition_says_of_a_segment_has_file_and_line(cairn) -> None:
    done = await cairn("apply", "-f", "-", text="segment:\n  name: a\n  criteria: in_segment('none')\n")
    assert done.code == 1
    assert "<stdin>:3: segment.criteria: names the segment 'none'" in done.err


@pytest.mark.usefixtures("watcher")
async def test_a_journey_is_paused_resumed_and_ended_for_all_who_serve_it(definition, cairn) -> None:
    await definition.create(definition.welcome())
    await definition.publish("welcome")
    done = await cairn("journeys", "pause", "welcome", "--json")
    assert done.documents == [{"journey": "welcome", "state": "PAUSED", "revision": 2, "live": ["w1"]}]
    assert (done.code, done.err) == (0, "")
    done = await cairn("journeys", "pause", "welcome", "--mode", "run")
    assert (done.code, done.out) == (1, "")
    assert "is paused in mode FREEZE" in done.err
    done = await cairn("journeys", "resume", "journeys/welcome")
    assert (done.code, "LIVE" in done.out, "Known everywhere: 1 Evaluator." in done.err) == (0, True, True)
    # Nobody sits at a terminal: it is not asked.
    done = await cairn("journeys", "pause", "welcome", "--mode", "DROP", "--json")
    assert done.documents[0]["state"] == "PAUSED"
    assert (await definition.get("welcome")).pause.mode == 3
    done = await cairn("journeys", "list")
    assert "PAUSED" in done.out
    done = await cairn("journeys", "end", "welcome", "--remove", "--json")
    assert (done.documents[0]["state"], done.documents[0]["live"]) == ("ENDED", ["w1"])
    (life,) = (await definition.changes()).lives
    assert (life.state, life.removes) == (JourneyState.JOURNEY_STATE_ENDED, True)


async def test_at_a_terminal_it_is_asked_before_anybody_is_removed(definition, cairn) -> None:
    await definition.create(definition.welcome())
    await definition.publish("welcome")
    person, terminal = os.openpty()
    try:
        for command in (("pause", "welcome", "--mode", "drop"), ("end", "welcome", "--remove")):
            os.write(person, b"n\n")
            done = await cairn("journeys", *command, "--no-wait", terminal=terminal)
            assert (done.code, done.out) == (130, "")
            assert "Remove all who are in welcome?" in done.err
        assert (await definition.changes()).revision == 1
        os.write(person, b"y\n")
        done = await cairn("journeys", "pause", "welcome", "--mode", "drop", "--no-wait", terminal=terminal)
        assert done.code == 0
        done = await cairn("journeys", "end", "welcome", "--remove", "--yes", "--no-wait", terminal=terminal)
        assert (done.code, "Remove all" in done.err) == (0, False)
    finally:
        os.close(person)
        os.close(terminal)
    (life,) = (await definition.changes()).lives
    assert (life.revision, life.removes) == (3, True)


async def test_who_lags_is_named_and_what_was_done_is_done(definition, cairn) -> None:
    await definition.create(definition.welcome())
    await definition.publish("welcome")

    async def lag() -> None:
        while True:
            await definition.stub.AcknowledgeRevision(
                pb.AcknowledgeRevisionRequest(watcher="slow", revision=1)
            )
            await asyncio.sleep(1)

    lagging = asyncio.create_task(lag())
    done = await cairn("journeys", "pause", "welcome", "--timeout", "0.2")
    lagging.cancel()
    assert (done.code, done.out) == (1, "")
    assert "cairn: paused, but not live everywhere after 0 s: slow lag behind revision 2" in done.err
    done = await cairn("journeys", "end", "welcome", "--no-wait", "--json")
    assert done.documents == [{"journey": "welcome", "state": "ENDED", "revision": 3, "live": None}]


async def test_versions_are_compared(definition, cairn) -> None:
    await definition.create(definition.welcome())
    done = await cairn("journeys", "diff", "welcome")
    assert (done.code, "welcome was never published" in done.err) == (1, True)
    await definition.publish("welcome")
    done = await cairn("journeys", "diff", "welcome")
    assert (done.code, done.out, done.err) == (0, "", "They do not differ.\n")
    await definition.update(definition.welcome(wait_s=60))
    told = {
        "kind": "DIFFERENCE_KIND_CHANGED",
        "element": "step signed-up/1",
        "field": "wait.duration",
        "before": "1h",
        "after": "1m",
    }
    for versions in ((), ("1", "draft")):
        assert (await cairn("journeys", "diff", "welcome", *versions, "--json")).documents == [told]
    await definition.publish("welcome")
    assert (await cairn("journeys", "diff", "welcome", "1", "2", "--json")).documents == [told]
    done = await cairn("journeys", "diff", "welcome", "1", "2")
    assert done.code == 0
    (row,) = [line for line in done.out.splitlines() if "CHANGED" in line]
    assert row.split() == ["CHANGED", "step", "signed-up/1", "wait.duration", "1h", "1m"]
    done = await cairn("journeys", "diff", "welcome", "1", "0")
    assert (done.code, "'0' is no version; say a number from 1, or draft" in done.err) == (2, True)


async def test_segments_are_listed_shown_saved_and_deleted(definition, cairn) -> None:
    done = await cairn("segments", "put", "vip", "profile.spent > 1000.0", "--description", "Big spenders")
    assert (done.code, done.out, "Saved vip" in done.err) == (0, "", True)
    done = await cairn("segments", "put", "top", 'in_segment("vip")', "--json")
    assert done.documents[0]["name"] == "segments/top"
    done = await cairn("segments", "--json")
    assert [one["name"] for one in done.documents] == ["segments/top", "segments/vip"]
    done = await cairn("segments")
    assert ("Big spenders" in done.out, "profile.spent > 1000.0" in done.out) == (True, True)
    text = (await cairn("segments", "get", "vip")).out
    done = await cairn("apply", "-f", "-", "--json", text=text)
    assert done.documents == [{"kind": "segment", "name": "vip", "result": "unchanged"}]
    done = await cairn("segments", "delete", "vip")
    assert (done.code, "is named by segments/top" in done.err) == (1, True)
    for name in ("top", "vip"):
        done = await cairn("segments", "delete", name, "--json")
        assert done.documents == [{"segment": name, "result": "deleted"}]
    done = await cairn("segments", "get", "vip")
    assert (done.code, "segments/vip does not exist" in done.err) == (1, True)
