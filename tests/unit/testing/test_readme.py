"""The examples of the kit's README are what they say."""

import re
from pathlib import Path

from cairn.testing import journeys
from cairn.testing.journeys import read_table

LIBS = Path(__file__).parents[3] / "libs"
README = (LIBS / "testing" / "README.md").read_text()
CART = re.findall(r"```yaml\n(# cart.yaml.*?)```", (LIBS / "journey" / "README.md").read_text(), re.DOTALL)[0]


def test_the_stories_are_true() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(source, {"cart": CART})


def test_the_table_is_true(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "cart.yaml").write_text(CART.replace("name: abandoned-cart", "name: cart"))
    path = tmp_path / "cart.journey-test.yaml"
    path.write_text(text)
    first, second = read_table(path)
    first.check()
    second.check()


def test_a_failure_reads_as_shown(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "cart.yaml").write_text(CART)
    path = tmp_path / "cart.journey-test.yaml"
    path.write_text(text.replace("through email", "through sms"))
    case, _ = read_table(path)
    (shown,) = re.findall(r"```\n(cart.journey-test.*?)```", README, re.DOTALL)
    told = journeys.explain(case, case.told()).replace(f"{tmp_path}/", "")
    assert [line for line in told.splitlines() if "WITHDRAWN" not in line] == shown.splitlines()


def test_every_moment_of_the_table_is_there() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`([a-z]+)\(", "\n".join(rows)))
    assert named == {
        "event", "profile", "passes", "publish", "pause", "resume", "end", "run", "receipt", "alarm",
    }  # fmt: skip
    assert all(callable(getattr(journeys, name)) for name in named)
