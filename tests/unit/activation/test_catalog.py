"""Connections and templates as they are found: channels while their connection is changed, templates of a release before."""

import asyncio
from typing import Any

import pytest

from cairn.activation import catalog
from cairn.activation.catalog import Catalog, compile_template
from cairn.activation.templates import TemplateError
from cairn.api.activation.v1 import activation_pb2 as pb


class Slow:
    """A channel that may take its time to close, as one whose server no longer answers."""

    def __init__(self) -> None:
        self.may_close = asyncio.Event()
        self.closing = asyncio.Event()

    async def close(self) -> None:
        self.closing.set()
        await self.may_close.wait()


def version(number: int) -> pb.Connection:
    return pb.Connection(name="connections/email", etag=str(number))


async def test_a_channel_is_not_closed_under_who_is_about_to_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Slow] = []

    def open_channel(_connection: pb.Connection, _tools: Any) -> Slow:
        opened.append(Slow())
        if len(opened) > 1:  # only the first one takes its time
            opened[-1].may_close.set()
        return opened[-1]

    monkeypatch.setattr(catalog, "open_channel", open_channel)
    found = Catalog(None)  # type: ignore[arg-type]  # channels of these tests need no tools
    used, done = asyncio.Event(), asyncio.Event()

    async def use(connection: pb.Connection) -> None:
        async with found.channel(connection, "email") as channel:
            assert channel is opened[1]
            used.set()
            await done.wait()

    async with found.channel(version(1), "email"):
        pass
    second = asyncio.create_task(use(version(2)))
    await opened[0].closing.wait()
    # The second one waits for the first to be closed; meanwhile there is a third.
    async with found.channel(version(3), "email") as third:
        assert third is opened[2]
    opened[0].may_close.set()
    await used.wait()
    assert not opened[1].closing.is_set()
    done.set()
    await second
    assert opened[1].closing.is_set(), "closed by its last user"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (pb.Template(text="{{ profile.name }"), "text: the template can't be compiled: unexpected '}'"),
        (
            pb.Template(html="{{ " + "(" * 250 + "1" + ")" * 250 + " }}"),
            "html: the template can't be compiled",
        ),
    ],
)
def test_a_template_that_no_longer_compiles_fails_its_own_messages(
    template: pb.Template, reason: str
) -> None:
    template.version = 7
    compiled = compile_template(template, "[test] ")
    assert compiled.version == 7
    with pytest.raises(TemplateError) as error:
        compiled.render({})
    assert str(error.value).startswith(reason)
    assert [str(problem) for problem in compiled.problems({})] == [str(error.value)]
