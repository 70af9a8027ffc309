"""How a stream of answers ends when the process drains."""

import asyncio

import pytest

from cairn.runtime.drain import Drain
from cairn.runtime.errors import CairnError


@pytest.mark.parametrize("swallowed", [0, 1, 3])
async def test_a_stream_ends_also_if_its_work_swallows_cancellations(swallowed: int) -> None:
    """As `asyncio.wait_for` of Python 3.11 does when what it waits for is done in the same moment."""
    drain, left = Drain(), swallowed

    async def work() -> None:
        nonlocal left
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not left:
                    raise
                left -= 1

    cut = asyncio.ensure_future(drain.cut(work()))
    await asyncio.sleep(0)
    drain.begin()
    with pytest.raises(CairnError, match="about to stop"):
        async with asyncio.timeout(30):
            await cut
    assert left == 0
