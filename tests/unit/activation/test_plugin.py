"""A channel of another package: found by its entry point, checked and opened as ours are."""

import sys
from pathlib import Path

import pytest
from pigeon_post_package import install

from cairn.activation.channels import kind_of, open_channel, plugin
from cairn.activation.channels.base import ChannelTools, Probe, UnreachableError
from cairn.activation.ledger import Fate
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.activation.wire_resources import check_connection
from cairn.api.activation.v1 import activation_pb2 as pb


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package as pip leaves it."""
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    plugin.cache_clear()
    sys.modules.pop("pigeon_post", None)


def connection(channel: str, **settings: str) -> pb.Connection:
    made = pb.Connection(name="connections/pigeons", plugin=pb.PluginConnection(channel=channel))
    made.plugin.settings.update(settings)
    return made


def found(channel: str, **settings: str) -> list[tuple[str, str]]:
    violations = check_connection(connection(channel, **settings), Secrets(None))
    return [(violation.field, violation.description) for violation in violations]


@pytest.mark.usefixtures("package")
async def test_a_channel_of_another_package() -> None:
    assert found("pigeon-post", loft="north") == []
    assert found("pigeon-post") == [("connection.plugin.settings.loft", "is required")]
    good = connection("pigeon-post", loft="north")
    assert kind_of(good).name == "pigeon-post"
    settings = ActivationSettings(postgres_dsn="postgresql://nowhere")
    channel = open_channel(good, ChannelTools(Secrets(None), settings))
    assert isinstance(channel, Probe)
    assert await channel.probe() == "north coos"


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["no-kind", "broken", "nobody", ""])
async def test_one_that_nobody_brings(name: str) -> None:
    ((field, reason),) = found(name)
    assert field == "connection.plugin.channel"
    assert f"`{name}`" in reason
    # A connection that was saved while its package was there.
    left_behind = connection(name)
    channel = open_channel(left_behind, ChannelTools(Secrets(None), ActivationSettings(postgres_dsn="x")))
    with pytest.raises(UnreachableError, match=f"`{name}`"):
        await channel.open()
    (outcome,) = await channel.send(["a letter"])
    assert (outcome.fate, outcome.detail) == (Fate.RETRY, reason)
