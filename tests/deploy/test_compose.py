"""The compose file, the images and the example of .env: valid, closed, and in agreement with the program that they run."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.main import get_command

from deploy import compose
from expunge import cli
from service.settings import Settings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


@pytest.fixture(scope="module")
def dockerfile() -> dict[str, list[tuple[str, str]]]:
    """Stage -> its instructions, in order."""
    stages: dict[str, list[tuple[str, str]]] = {"": []}
    stage = ""
    text = re.sub(r"\\\n", " ", "\n".join(line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")))
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, stage = rest.partition(" AS ")
            stages[stage] = [("FROM", base)]
        else:
            stages[stage].append((instruction, rest.strip()))
    return stages


def programs(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: body for name, body in document["services"].items() if "build" in body}


def test_the_file_is_valid_by_the_schema_of_the_compose_specification(document: dict[str, Any]) -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())

    broken = document | {"services": document["services"] | {"api": document["services"]["api"] | {"comand": []}}}

    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_there_is_every_part_and_a_gpu_only_where_it_is_asked_for(document: dict[str, Any]) -> None:
    env = {"POSTGRES_PASSWORD": "x"}

    plain = [service.name for service in compose.read(FILE, env)]
    with_gpu = [service.name for service in compose.read(FILE, env | {"COMPOSE_PROFILES": "gpu"})]

    assert set(plain) == {"postgres", "redis", "migrate", "api", "worker"}
    assert set(with_gpu) - set(plain) == {"worker-gpu"}
    assert plain.index("postgres") < plain.index("migrate") < min(plain.index("api"), plain.index("worker"))
    (device,) = document["services"]["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"] and device["driver"] == "nvidia"


@pytest.mark.parametrize(("profiles", "queue"), [({}, "cpu"), ({"COMPOSE_PROFILES": ""}, "cpu"), ({"COMPOSE_PROFILES": "gpu"}, "gpu")])
def test_what_is_to_be_trained_goes_to_a_queue_that_has_a_worker(profiles: dict[str, str], queue: str) -> None:
    services = {service.name: service for service in compose.read(FILE, {"POSTGRES_PASSWORD": "x"} | profiles)}

    attended = {service.command[-1] for service in services.values() if service.command[:1] == ("worker",)}

    assert services["api"].environment["EXPUNGE_TRAINING_QUEUE"] == queue
    assert queue in attended


def test_every_lasting_service_has_a_health_check_and_waits_for_what_it_needs(document: dict[str, Any]) -> None:
    services = document["services"]
    lasting = {name for name, body in services.items() if body.get("restart") != "no"}

    assert all(services[name].get("healthcheck", {}).get("test", [""])[0] == "CMD" for name in lasting)
    for body in services.values():
        for other, how in body.get("depends_on", {}).items():
            assert how["condition"] == ("service_healthy" if other in lasting else "service_completed_successfully")
    assert all("migrate" in services[name]["depends_on"] for name in ("api", "worker", "worker-gpu"))


def test_images_of_others_are_pinned_by_digest_and_nothing_runs_as_root(
    document: dict[str, Any], dockerfile: dict[str, list[tuple[str, str]]]
) -> None:
    others = {name: body for name, body in document["services"].items() if "build" not in body}
    (default,) = [rest for instruction, rest in dockerfile[""] if instruction == "ARG"]

    assert others and all(DIGEST.search(body["image"]) and body["user"] not in ("root", "0") for body in others.values())
    assert DIGEST.search(default)
    bases = {rest for steps in dockerfile.values() for instruction, rest in steps if instruction == "FROM"}
    assert bases == {"${PYTHON}", "source", "bare"}
    assert [rest for instruction, rest in dockerfile["bare"] if instruction == "USER"] == ["10001:10001"]
    assert not [rest for stage in ("api", "worker") for instruction, rest in dockerfile[stage] if instruction == "USER"]
    for name, body in document["services"].items():
        assert body["cap_drop"] == ["ALL"] and "no-new-privileges:true" in body["security_opt"], name
        assert not body.get("privileged") and "network_mode" not in body, name


def test_only_the_api_is_reached_from_outside_and_on_loopback_alone(document: dict[str, Any]) -> None:
    published = {name: body["ports"] for name, body in document["services"].items() if "ports" in body}

    assert published == {"api": ["127.0.0.1:${EXPUNGE_PORT:-8000}:8000"]}
    assert document["networks"]["records"]["internal"] is True
    assert document["services"]["postgres"]["networks"] == document["services"]["redis"]["networks"] == ["records"]


def test_volumes_are_declared_and_the_keys_lie_apart_from_the_database(document: dict[str, Any]) -> None:
    mounted = {name: {volume.partition(":")[0] for volume in body.get("volumes", [])} for name, body in document["services"].items()}

    assert set.union(*mounted.values()) == set(document["volumes"]) == {"postgres", "keys", "blobs"}
    assert mounted["postgres"] == {"postgres"}
    assert mounted["api"] == mounted["worker"] == {"keys", "blobs"}


def test_every_variable_is_a_setting_and_every_command_a_command_of_this_program(document: dict[str, Any]) -> None:
    command = get_command(cli.app)
    commands: dict[str, Any] = command.commands  # type: ignore[attr-defined]

    for body in programs(document).values():
        names = {name.removeprefix("EXPUNGE_").lower() for name in body["environment"] if name.startswith("EXPUNGE_")}
        assert names <= set(Settings.model_fields)
        for words in (body["command"], body.get("healthcheck", {}).get("test", [])[2:]):
            if words and words[0] in commands:
                options = {option for parameter in commands[words[0]].params for option in parameter.opts}
                assert {word for word in words if word.startswith("--")} <= options
    assert {body["command"][0] for body in programs(document).values()} == {"migrate", "serve", "worker"} <= set(commands)


def test_no_secret_has_a_default_and_the_example_names_every_variable(document: dict[str, Any]) -> None:
    used = set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    example = compose.dotenv(ROOT / ".env.example")

    with pytest.raises(compose.Missing, match="POSTGRES_PASSWORD: choose one"):
        compose.read(FILE, example)

    assert used == set(example)
    assert not example["POSTGRES_PASSWORD"]
    assert ".env" in (ROOT / ".gitignore").read_text().split()


def test_the_api_image_has_no_torch_and_both_have_all_packages(dockerfile: dict[str, list[tuple[str, str]]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    installed = {stage: " ".join(rest for instruction, rest in steps if instruction == "RUN") for stage, steps in dockerfile.items()}

    copied = {rest.split()[0] for instruction, rest in dockerfile["source"] if instruction == "COPY" and len(rest.split()) == 2}
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert copied == packages <= allowed
    assert "'.[service,s3]'" in installed["api-packages"] and "'.[service,worker,s3]'" in installed["worker-packages"]
    assert not any("torch" in name for name in project["project"]["optional-dependencies"]["service"])
    assert dockerfile["api"][1] == ("COPY", "--from=api-packages /opt/expunge /opt/expunge")
    assert dockerfile["worker"][1] == ("COPY", "--from=worker-packages /opt/expunge /opt/expunge")


@pytest.mark.parametrize(
    ("text", "filled"),
    [("${A}", "a"), ("$A", "a"), ("${B:-b}", "b"), ("${E:-b}", "b"), ("${E-b}", ""), ("$$A", "$A"), ("${B}", ""), ("x${A}y${A}", "xaya")],
)
def test_variables_are_filled_in_as_the_specification_says(text: str, filled: str, tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(yaml.safe_dump({"services": {"s": {"command": [text]}}}))

    (service,) = compose.read(tmp_path / "c.yml", {"A": "a", "E": ""})

    assert service.command == (filled,)
