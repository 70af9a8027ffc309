from pathlib import Path

import pytest
from deploy_files import DEPLOY, SERVICES, cairn_variables, documents, settings_class

from cairn.cli.migrate import migrate
from cairn.runtime.settings import environment_name

FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".pyc")
# The one address that is no service's: the database to prepare, called as `cairn migrate` calls it.
OF_THE_COMMAND = {parameter.envvar for parameter in migrate.params if parameter.envvar}


def secrets_of_connections() -> set[str]:
    """The variables in which Activation looks for what the example connections name by `..._secret` fields."""
    return {
        f"CAIRN_SECRET_{value.upper().replace('-', '_')}"
        for path in (DEPLOY / "examples").rglob("*.yaml")
        for document in documents(path)
        for kind in document.get("connection", {}).values()
        if isinstance(kind, dict)
        for field, value in kind.items()
        if field.endswith("_secret")
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_variable_of_ours_is_a_setting(path: Path) -> None:
    known = {
        environment_name(settings_class(service), field)
        for service in SERVICES
        for field in settings_class(service).model_fields
    }
    assert cairn_variables(path.read_text()) <= known | OF_THE_COMMAND | secrets_of_connections()


def test_there_are_variables_to_look_at() -> None:
    assert any(cairn_variables(path.read_text()) for path in FILES)
