"""A package that brings a channel by an entry point, as pip leaves it."""

from pathlib import Path

SOURCE = """
import asyncio
from cairn.activation.channels.base import ChannelKind
from cairn.activation.ledger import Fate, Guarantee, Outcome

class Pigeons:
    ordered, batch_size, linger_s = False, 3, 0.0
    def __init__(self, connection, tools):
        self.loft = connection.plugin.settings["loft"]
        self.turns = asyncio.Semaphore(1)
    def prepare(self, letter): return letter.claim.activation_id
    def address_of(self, prepared): return ""
    def member_of(self, prepared): return None
    async def open(self): pass
    async def probe(self): return f"{self.loft} coos"
    async def send(self, prepared): return [Outcome(Fate.SENT, "flew")] * len(prepared)
    async def close(self): pass

def check(connection, findings):
    if "loft" not in connection.plugin.settings:
        findings.add("plugin.settings.loft", "is required")

KIND = ChannelKind("pigeon-post", Guarantee.AT_MOST_ONCE, check, Pigeons)
NO_KIND = "a pigeon"
"""


def install(folder: Path) -> None:
    """Puts the package into a folder that Python looks into."""
    (folder / "pigeon_post.py").write_text(SOURCE)
    info = folder / "pigeon_post-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeon-post\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[cairn.activation.channels]\npigeon-post = pigeon_post:KIND\nno-kind = pigeon_post:NO_KIND\nbroken = no_such_module:KIND\n"
    )
