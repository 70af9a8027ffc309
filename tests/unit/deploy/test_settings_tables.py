import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from deploy_files import ROOT, SERVICES, settings_class

from cairn.runtime.settings_docs import render_settings_table


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_settings", ROOT / "tools" / "settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The READMEs of the services in a folder of their own."""
    for service in SERVICES:
        folder = tmp_path / "services" / service
        folder.mkdir(parents=True)
        for name in ("README.md", "pyproject.toml"):
            shutil.copy(ROOT / "services" / service / name, folder / name)
    return tmp_path


def test_the_tables_are_fresh(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    code = tool.main(["--check"])
    assert (code, capsys.readouterr().err) == (0, "")


def test_a_stale_table_is_named_and_made_anew(
    tool: ModuleType, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = checkout / "services" / "scheduler" / "README.md"
    fresh = readme.read_text()
    readme.write_text(fresh.replace("`7403`", "`1`"))
    assert tool.main(["--check"], checkout) == 1
    assert capsys.readouterr().err == "settings: services/scheduler/README.md is stale; run `make docs`\n"
    assert tool.main([], checkout) == 0
    assert readme.read_text() == fresh


@pytest.mark.parametrize("lost", ["<!-- settings -->", "<!-- /settings -->"])
def test_a_readme_without_a_place_for_its_table_is_named(
    lost: str, tool: ModuleType, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = checkout / "services" / "evaluator" / "README.md"
    readme.write_text(readme.read_text().replace(lost, ""))
    assert tool.main([], checkout) == 1
    assert "services/evaluator/README.md needs one pair" in capsys.readouterr().err


def test_a_missing_readme_is_named(
    tool: ModuleType, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "services" / "activation" / "README.md").unlink()
    assert tool.main(["--check"], checkout) == 1
    assert "services/activation/README.md is missing" in capsys.readouterr().err


@pytest.mark.parametrize("service", SERVICES)
def test_the_tool_finds_the_class_that_the_process_uses(service: str, tool: ModuleType) -> None:
    assert tool.settings_class(service) is settings_class(service)
    assert (
        render_settings_table(settings_class(service))
        in (ROOT / "services" / service / "README.md").read_text()
    )


@pytest.mark.parametrize("service", SERVICES)
def test_a_readme_names_metrics_that_exist_and_the_evaluators_all(service: str) -> None:
    source = (ROOT / "services" / service / "src" / "cairn" / service / "metrics.py").read_text()
    declared = set(re.findall(rf'"(cairn_{service}_\w+)"', source))
    named = set(re.findall(rf"cairn_{service}_\w+", (ROOT / "services" / service / "README.md").read_text()))
    assert named <= declared
    assert named == declared or service != "evaluator"
