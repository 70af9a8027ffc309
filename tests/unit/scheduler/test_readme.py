from pathlib import Path

from cairn.runtime.settings_docs import render_settings_table
from cairn.scheduler.settings import SchedulerSettings

README = Path(__file__).parents[3] / "services" / "scheduler" / "README.md"


def test_the_settings_in_the_readme_are_those_of_the_code() -> None:
    text = README.read_text(encoding="utf-8")
    table = text.split("<!-- settings -->\n", 1)[1].split("<!-- /settings -->", 1)[0]
    assert table == render_settings_table(SchedulerSettings)
