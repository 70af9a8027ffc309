"""Reads the files of deploy/ as their tools do, and the settings classes that they have to agree with."""

import importlib
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cairn.runtime.settings import ServiceSettings, load_settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kustomize" / "base"
PRODUCTION = DEPLOY / "kustomize" / "overlays" / "production"
PUBLIC_PORT = 8404
"""Where Activation is reached by the world, in every way of deploying it; by itself it has no such port."""
SERVICES = tuple(sorted(path.parent.name for path in ROOT.glob("services/*/pyproject.toml")))


@dataclass(frozen=True)
class Stage:
    """One stage of the Dockerfile: its instructions with arguments, continued lines joined."""

    base: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        return [arguments for instruction, arguments in self.instructions if instruction == name]

    def env(self) -> dict[str, str]:
        return dict(word.split("=", 1) for arguments in self.all("ENV") for word in shlex.split(arguments))


def settings_class(service: str) -> type[ServiceSettings]:
    found: type[ServiceSettings] = importlib.import_module(f"cairn.{service}.__main__").SETTINGS
    return found


def ports(service: str) -> tuple[int, int]:
    """The ports of gRPC and of HTTP that a service has by default."""
    fields = settings_class(service).model_fields
    return fields["grpc_port"].default, fields["http_port"].default


def public_ports(service: str) -> tuple[int, ...]:
    """The port for the world, of the one service that has it."""
    return (PUBLIC_PORT,) if service == "activation" else ()


def stages() -> dict[str, Stage]:
    """The stages of the Dockerfile by name; "" is the last, the image."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    instructions: list[tuple[str, str]] = []
    lines = [
        line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")
    ]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            base, _, name = arguments.partition(" AS ")
            instructions = []
            found[name] = (base, instructions)
        else:
            instructions.append((instruction, arguments))
    return {name: Stage(base, tuple(each)) for name, (base, each) in found.items()}


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def base_manifests() -> list[dict[str, Any]]:
    """Every resource of the base, as its files have it."""
    kustomization = documents(BASE / "kustomization.yaml")[0]
    return [document for name in kustomization["resources"] for document in documents(BASE / name)]


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def containers(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    pod = manifest["spec"]["template"]["spec"]
    yield from pod.get("initContainers", ())
    yield from pod["containers"]


def env_lines(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


def config_map(service: str, *, production: bool) -> dict[str, str]:
    """What kustomize makes of a service's ConfigMap in the base, and in production."""
    values = env_lines((BASE / "config" / f"{service}.env").read_text())
    if production:
        generators = documents(PRODUCTION / "kustomization.yaml")[0]["configMapGenerator"]
        for generator in generators:
            if generator["name"] == f"cairn-{service}":
                assert generator["behavior"] == "merge"
                values |= env_lines("\n".join(generator["literals"]))
    return values


def loaded(
    service: str, environment: Mapping[str, object], monkeypatch: pytest.MonkeyPatch
) -> ServiceSettings:
    """A service's settings in its image with this environment; fails for a variable that is none of its settings."""
    settings = settings_class(service)
    prefix = settings.model_config["env_prefix"]
    known = {f"{prefix}{field}".upper() for field in settings.model_fields}
    everything = stages()[service].env() | {name: str(value) for name, value in environment.items()}
    for name, value in everything.items():
        if name.startswith("CAIRN_"):
            assert name in known, f"{name} is no setting of {service}"
            # As compose reads it where nothing is said in .env.
            monkeypatch.setenv(name, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value))
    return load_settings(settings)


def cairn_variables(text: str) -> set[str]:
    """Every variable of ours that a text names in full; `CAIRN_<SERVICE>_...` and the like are names of none."""
    return set(re.findall(r"\bCAIRN_[A-Z0-9_]*[A-Z0-9]\b", text))
