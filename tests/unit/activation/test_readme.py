"""What the service's README says of channels is so."""

import re
from pathlib import Path
from typing import Any

import pytest

from cairn.activation.channels import (
    ENTRY_POINTS,
    KINDS,
    google_audience,
    linkedin_audience,
    meta_audience,
    tiktok_audience,
)
from cairn.activation.channels.base import Channel, ChannelKind, ChannelTools
from cairn.activation.channels.findings import Findings
from cairn.activation.ledger import Fate, Guarantee
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.settings import environment_name

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "services" / "activation" / "README.md").read_text()
CHANNELS = README.partition("## Channels")[2].partition("## ")[0]
WORDS = {
    Guarantee.AT_MOST_ONCE: "at most once",
    Guarantee.AT_LEAST_ONCE: "at least once",
}


def rows_of(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*)", text, re.MULTILINE))


def test_every_channel_is_in_the_tables_with_its_guarantee() -> None:
    guarantees, answers = CHANNELS.split("What an answer makes of a delivery")
    told = rows_of(guarantees)
    assert told.keys() == KINDS.keys()
    assert rows_of(answers).keys() == {name for name, kind in KINDS.items() if not kind.stays}
    for name, kind in KINDS.items():
        if not kind.stays:
            assert told[name].startswith(WORDS[kind.guarantee]), name


@pytest.mark.parametrize("channel", [meta_audience, google_audience, tiktok_audience, linkedin_audience])
def test_the_size_of_a_call_is_the_channels_own(channel: Any) -> None:
    row = next(line for line in CHANNELS.splitlines() if line.startswith(f"| `{channel.KIND.name}` | at"))
    assert f"up to {channel.MAX_PEOPLE_IN_CALL:,} people a call" in row


@pytest.fixture
def fax() -> ChannelKind:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    kind = names["KIND"]
    assert isinstance(kind, ChannelKind)
    return kind


def test_the_channel_that_it_shows_is_one(fax: ChannelKind) -> None:
    connection = pb.Connection(name="office", plugin=pb.PluginConnection(channel="fax"))
    findings = Findings("connection")
    fax.check(connection, findings)
    assert [each.field for each in findings.violations] == ["connection.plugin.settings.line"]
    connection.plugin.settings.update({"line": 2})
    findings = Findings("connection")
    fax.check(connection, findings)
    assert findings.violations == []
    settings = ActivationSettings(postgres_dsn="postgresql://localhost/x")
    channel = fax.open(connection, ChannelTools(Secrets(None), settings))
    wanted = {name for name in (*Channel.__annotations__, *vars(Channel)) if not name.startswith("_")}
    assert wanted
    assert not {name for name in wanted if not hasattr(channel, name)}


def test_the_entry_point_and_the_fates_that_it_names_are_there() -> None:
    assert f'[project.entry-points."{ENTRY_POINTS}"]' in README
    told = re.search(r"`Fate` says what came of\s+each: (.*?)\. A channel", README, re.DOTALL)
    assert told is not None
    assert set(re.findall(r"`([A-Z]+)`", told[1])) == {fate.name for fate in Fate} - {"HELD"}


def test_every_metric_that_it_names_is_there() -> None:
    source = (ROOT / "services/activation/src/cairn/activation/metrics.py").read_text()
    for name in re.findall(r"`(cairn_activation_\w+)`", README):
        assert f'"{name}"' in source, name


def test_every_setting_that_it_names_is_there() -> None:
    known = {environment_name(ActivationSettings, field) for field in ActivationSettings.model_fields}
    assert set(re.findall(r"`(CAIRN_ACTIVATION_\w+)`", README)) <= known
    prose = README.partition("## Settings")[0]
    for name in (
        "WEBHOOK_ALLOWED_NETWORKS",
        "RETRY_BASE_SECONDS",
        "RETRY_CAP_SECONDS",
        "ATTEMPTS_BUDGET",
        "HASH_KEY_SECRET",
    ):
        assert f"`{name}`" in prose
        assert f"CAIRN_ACTIVATION_{name}" in known
