"""ray_cluster.yaml is what Ray's launcher takes, and asks for a token, roles and machines that go away."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from botocore.session import Session
from botocore.validate import ParamValidator
from ray.autoscaler._private.commands import warn_about_bad_start_command
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """As `ray up` has it before it asks AWS for anything."""
    return prepare_config(yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text()))


def _workers(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kinds = cluster["available_node_types"]
    return (kind for name, kind in kinds.items() if name != cluster["head_node_type"])


def test_the_launcher_takes_it(cluster: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    validate_config(cluster)
    warn_about_bad_start_command(["ray start --head"])
    assert "will not launch any workers" in " ".join("".join(capfd.readouterr()).split())
    warn_about_bad_start_command(cluster["head_start_ray_commands"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("docker.images", "siamdiff"),
        ("available_node_types.spot.min_worker", 0),
        ("available_node_types.spot.resources.GPU", "1"),
        ("idle_timeout_minutes", "5 minutes"),
        ("head_node_type", "leader"),
        ("initialization_commands", "aws"),
        ("provider.security_group.Rules", []),
        ("available_node_types.spot.min_workers", 9),
    ],
)
def test_the_launcher_would_refuse_a_mistake(cluster: dict[str, Any], path: str, value: object) -> None:
    broken = deepcopy(cluster)
    place = broken
    *steps, last = path.split(".")
    for step in steps:
        place = place[step]
    place[last] = value
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(broken)


def test_no_gpu_waits_beside_the_head_and_idle_machines_end(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert cluster["idle_timeout_minutes"] <= 10
    assert cluster["provider"]["cache_stopped_nodes"] is False
    markets = [
        kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") for kind in _workers(cluster)
    ]
    assert sorted(markets, key=str) == [None, "spot"]
    assert all(kind["resources"]["GPU"] and kind["min_workers"] == 0 for kind in _workers(cluster))


def test_roles_take_the_place_of_keys(cluster: dict[str, Any]) -> None:
    text = (REPOSITORY / "ray_cluster.yaml").read_text()
    assert not re.search(r"AKIA|aws_access_key|aws_secret|ssh_private_key|KeyName", text, re.IGNORECASE)
    for kind in cluster["available_node_types"].values():
        machine = kind["node_config"]
        assert machine["IamInstanceProfile"]["Name"]
        assert machine["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        assert all(device["Ebs"]["Encrypted"] for device in machine["BlockDeviceMappings"])


def test_every_node_asks_for_the_token(cluster: dict[str, Any]) -> None:
    options = cluster["docker"]["run_options"]
    assert "--env=RAY_AUTH_MODE=token" in options
    (path,) = [
        option.partition("RAY_AUTH_TOKEN_PATH=")[2] for option in options if "RAY_AUTH_TOKEN_PATH" in option
    ]
    (mount,) = [option.partition("=")[2].split(":") for option in options if option.startswith("--volume=")]
    fetched = [command for command in cluster["initialization_commands"] if "get-parameter" in command]
    assert mount == ["/home/ubuntu/siamdiff", "/run/siamdiff", "ro"] and path == "/run/siamdiff/token"
    assert (
        len(fetched) == 1 and fetched[0].endswith(">~/siamdiff/token") and fetched[0].startswith("umask 077")
    )


def test_the_network_is_closed_but_for_ssh(cluster: dict[str, Any]) -> None:
    (rule,) = cluster["provider"]["security_group"]["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
    assert all(not each["CidrIp"].endswith("/0") for each in rule["IpRanges"])
    assert "--dashboard-host=127.0.0.1" in " ".join(cluster["head_start_ray_commands"])


def test_commands_are_shell_and_their_options_are_rays(cluster: dict[str, Any]) -> None:
    known = {option for parameter in start.params for option in parameter.opts}
    commands = [command for key, value in cluster.items() if key.endswith("_commands") for command in value]
    assert len(commands) == 7
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
        started = command.partition("ray start ")[2]
        assert {word.partition("=")[0] for word in shlex.split(started)} <= known


def test_the_image_is_the_one_of_the_manifests(cluster: dict[str, Any]) -> None:
    (image,) = yaml.safe_load((REPOSITORY / "k8s/overlays/eks/jobs/kustomization.yaml").read_text())["images"]
    assert cluster["docker"]["image"] == f"{image['newName']}:{image['newTag']}"


def test_machines_are_described_in_words_of_ec2(cluster: dict[str, Any]) -> None:
    shape = Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for kind in cluster["available_node_types"].values():
        asked = kind["node_config"] | {"MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(asked, shape).has_errors()
        asked["InstanceMarketOption"] = {"MarketType": "spot"}
        assert ParamValidator().validate(asked, shape).has_errors()
