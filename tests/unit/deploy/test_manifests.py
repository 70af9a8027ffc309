import json
import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deploy_files import (
    BASE,
    DEPLOY,
    PRODUCTION,
    PUBLIC_PORT,
    SERVICES,
    base_manifests,
    config_map,
    containers,
    documents,
    loaded,
    of_kind,
    ports,
    public_ports,
    settings_class,
)

from cairn.runtime.server import check_door

# One that clusters still run, and the newest that the validator knows.
VERSIONS = ("1.34", kubernetes_validate.latest_version().removesuffix(".0"))
MANIFESTS = base_manifests()
DEPLOYMENTS = of_kind(MANIFESTS, "Deployment")
JOB = of_kind(MANIFESTS, "Job")["cairn-migrate"]
OVERLAY = documents(PRODUCTION / "kustomization.yaml")[0]
WORKLOADS = [*DEPLOYMENTS.values(), JOB]

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def title(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return found


def rendered(folder: str) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # It warns of fields that are out of date.
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=title)
def test_a_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    # A kind that the validator does not know raises too: its command line only warns.
    assert kubernetes_validate.validate(manifest, version, strict=True) == version


@needs_kubectl
@pytest.mark.parametrize("folder", [BASE, PRODUCTION], ids=["base", "production"])
def test_what_kustomize_makes_is_valid(folder: Any) -> None:
    manifests = rendered(str(folder))
    assert {each["kind"] for each in manifests} >= {
        "Deployment",
        "Service",
        "ConfigMap",
        "Job",
        "PodDisruptionBudget",
    }
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


@needs_kubectl
def test_kustomize_merges_the_settings_as_the_other_tests_do() -> None:
    maps = {
        name.rpartition("-")[0]: each["data"]
        for name, each in of_kind(rendered(str(PRODUCTION)), "ConfigMap").items()
    }
    assert maps == {f"cairn-{service}": config_map(service, production=True) for service in SERVICES}


@pytest.mark.parametrize("folder", [BASE, PRODUCTION], ids=["base", "production"])
def test_every_file_beside_a_kustomization_is_used_by_it_and_exists(folder: Any) -> None:
    kustomization = documents(folder / "kustomization.yaml")[0]
    used = {(folder / name).resolve() for name in kustomization["resources"]}
    used |= {(folder / patch["path"]).resolve() for patch in kustomization.get("patches", ())}
    used |= {
        (folder / name).resolve()
        for generator in kustomization["configMapGenerator"]
        for name in generator.get("envs", ())
    }
    present = {path for path in folder.rglob("*") if path.is_file() and path.name != "kustomization.yaml"}
    assert {path for path in used if path.is_relative_to(folder)} == present
    assert all(path.exists() for path in used)


def test_every_kind_is_there_for_every_service() -> None:
    names = {f"cairn-{service}" for service in SERVICES}
    assert set(DEPLOYMENTS) == names
    assert set(of_kind(MANIFESTS, "Service")) == names
    assert set(of_kind(MANIFESTS, "PodDisruptionBudget")) == names


@pytest.mark.parametrize("service", SERVICES)
def test_the_ports_are_those_of_the_settings(service: str) -> None:
    grpc_port, http_port = ports(service)
    deployment = DEPLOYMENTS[f"cairn-{service}"]
    (container,) = pod(deployment)["containers"]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    public = dict(zip(("public",), public_ports(service), strict=False))
    assert named == {"grpc": grpc_port, "http": http_port, **public}
    served = of_kind(MANIFESTS, "Service")[f"cairn-{service}"]["spec"]["ports"]
    assert {(port["name"], port["port"], port["targetPort"]) for port in served} == {
        ("grpc", grpc_port, "grpc"),
        ("http", http_port, "http"),
    }
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(http_port)


PUBLIC = documents(PRODUCTION / "public.yaml")


@pytest.mark.parametrize("manifest", PUBLIC, ids=title)
def test_the_way_from_the_world_is_valid(manifest: dict[str, Any]) -> None:
    assert kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True) == VERSIONS[-1]


def test_the_world_reaches_the_public_port_and_no_other() -> None:
    (service,) = of_kind(PUBLIC, "Service").values()
    (ingress,) = of_kind(PUBLIC, "Ingress").values()
    assert (
        service["spec"]["selector"] == of_kind(MANIFESTS, "Service")["cairn-activation"]["spec"]["selector"]
    )
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == "public"
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {
        "name": service["metadata"]["name"],
        "port": {"name": port["name"]},
    }
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    settings = config_map("activation", production=True)
    assert settings["CAIRN_ACTIVATION_PUBLIC_PORT"] == str(PUBLIC_PORT)
    assert settings["CAIRN_ACTIVATION_PUBLIC_BASE_URL"] == f"https://{rule['host']}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_and_its_budget_select_the_pods_of_its_deployment(service: str) -> None:
    name = f"cairn-{service}"
    labels = DEPLOYMENTS[name]["spec"]["template"]["metadata"]["labels"]
    selector = DEPLOYMENTS[name]["spec"]["selector"]["matchLabels"]
    assert selector.items() <= labels.items()
    assert of_kind(MANIFESTS, "Service")[name]["spec"]["selector"] == selector
    assert of_kind(MANIFESTS, "PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"] == selector


@pytest.mark.parametrize("service", SERVICES)
def test_the_four_differ_in_what_is_their_own_only(service: str) -> None:
    def shared(name: str) -> Any:
        grpc_port, http_port = ports(name)
        text = (
            json.dumps(DEPLOYMENTS[f"cairn-{name}"]).replace(str(grpc_port), "1").replace(str(http_port), "2")
        )
        text = text.replace(name.upper(), "SERVICE").replace(name, "its")
        deployment = json.loads(text)
        template = pod(deployment)
        del template["containers"][0]["resources"]
        # Activation has the secrets of connections and the port for the world besides.
        template["containers"][0]["ports"] = template["containers"][0]["ports"][:2]
        template["volumes"] = template["volumes"][:2]
        template["containers"][0]["volumeMounts"] = template["containers"][0]["volumeMounts"][:2]
        return deployment

    assert shared(service) == shared("definition")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_with_the_environment_of_production(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (container,) = pod(DEPLOYMENTS[f"cairn-{service}"])["containers"]
    environment = config_map(service, production=True)
    environment |= {each["name"]: "postgresql://cairn@db/cairn" for each in container["env"]}
    settings = loaded(service, environment, monkeypatch)
    check_door(settings)
    assert settings.postgres_role == f"cairn_{service}"
    assert settings.peer_token_file is not None
    assert settings.peer_ca_file is not None
    assert not settings.allow_plaintext


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_finds_the_others(service: str) -> None:
    environment = config_map(service, production=False)
    for field in settings_class(service).model_fields:
        if field.endswith("_address"):
            peer = field.removesuffix("_address")
            assert environment[f"CAIRN_{service}_{field}".upper()] == f"cairn-{peer}:{ports(peer)[0]}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_file_that_a_setting_names_is_mounted(service: str) -> None:
    deployment = DEPLOYMENTS[f"cairn-{service}"]
    mounted = {
        mount["name"]: mount["mountPath"] for mount in pod(deployment)["containers"][0]["volumeMounts"]
    }
    assert set(mounted) == {volume["name"] for volume in pod(deployment)["volumes"]}
    added = [patch["value"] for patch in documents(PRODUCTION / "tls.yaml")[0]]
    folders = {*mounted.values(), *(value["mountPath"] for value in added if "mountPath" in value)}
    assert len({value["name"] for value in added}) == 1
    for name, value in config_map(service, production=True).items():
        if name.endswith(("_FILE", "_DIR")):
            folder = value if name.endswith("_DIR") else value.rpartition("/")[0]
            assert folder in folders, name


@pytest.mark.parametrize("service", SERVICES)
def test_a_stop_may_take_as_long_as_a_drain(service: str) -> None:
    template = pod(DEPLOYMENTS[f"cairn-{service}"])
    drain = settings_class(service).model_fields["drain_seconds"].default
    pause = int(template["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert template["terminationGracePeriodSeconds"] >= pause + drain + 20


@pytest.mark.parametrize("service", SERVICES)
def test_the_migration_runs_each_service_in_its_image_with_its_role(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (container,) = (each for each in pod(JOB)["containers"] if each["name"] == service)
    assert container["image"] == f"cairn-{service}"
    assert container["args"] == ["migrate"]
    environment = {each["name"]: each.get("value", "postgresql://db/cairn") for each in container["env"]}
    assert loaded(service, environment, monkeypatch).postgres_role == f"cairn_{service}"


@pytest.mark.parametrize("manifest", WORKLOADS, ids=title)
def test_every_container_is_bounded_and_without_privileges(manifest: dict[str, Any]) -> None:
    security = pod(manifest)["securityContext"]
    assert security["runAsNonRoot"]
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}\n" in (DEPLOY / "Dockerfile").read_text()
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(manifest)["automountServiceAccountToken"] is False
    assert pod(manifest)["enableServiceLinks"] is False
    for container in containers(manifest):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("service", SERVICES)
def test_every_probe_asks_for_health(service: str) -> None:
    (container,) = pod(DEPLOYMENTS[f"cairn-{service}"])["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "http"}


def test_images_are_named_without_a_tag_and_given_one_in_one_place() -> None:
    used = {container["image"] for manifest in WORKLOADS for container in containers(manifest)}
    assert used == {f"cairn-{service}" for service in SERVICES}
    given = [image["name"] for image in OVERLAY["images"]]
    assert sorted(given) == sorted(used)
    assert len({image["newTag"] for image in OVERLAY["images"]}) == 1


def test_what_the_overlay_changes_exists() -> None:
    assert {each["name"] for each in OVERLAY["replicas"]} <= set(DEPLOYMENTS)
    generators = {each["name"] for each in documents(BASE / "kustomization.yaml")[0]["configMapGenerator"]}
    assert {each["name"] for each in OVERLAY["configMapGenerator"]} == generators
