"""compose.yaml: that it is one, and that it keeps what the image and the documents promise."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
STOPS_WITHIN_S = 10

# The keys of the Compose specification (compose-spec.io) that a service may have, as far as they are used.
SERVICE_KEYS = {
    "build", "cap_drop", "environment", "image", "ports", "read_only", "restart", "secrets", "security_opt",
    "stop_grace_period", "tmpfs", "user", "volumes",
}  # fmt: skip


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def service(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]["kvfs"]
    return found


def defaults(text: str) -> str:
    """A text with its variables left at their defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def instruction(word: str) -> str:
    """What the Dockerfile's last such instruction says."""
    found: list[str] = re.findall(rf"^{word} (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return found[-1]


def test_it_has_only_what_the_specification_has(compose: dict[str, Any], service: dict[str, Any]) -> None:
    assert compose.keys() == {"name", "services", "volumes", "secrets"}
    assert service.keys() <= SERVICE_KEYS
    assert compose["secrets"]["kvfs-token"].keys() == {"file"}


def test_the_root_is_read_only_with_a_place_for_temporary_files(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


def test_the_volume_is_where_the_image_keeps_its_data(
    compose: dict[str, Any], service: dict[str, Any]
) -> None:
    (volume,) = service["volumes"]
    source, place = defaults(volume).split(":")
    assert place == instruction("VOLUME")
    assert source in compose["volumes"]


def test_it_runs_as_the_user_of_the_image(service: dict[str, Any]) -> None:
    user, group = defaults(service["user"]).split(":")
    assert user == group == instruction("USER")


def test_the_port_is_published_on_loopback_alone(service: dict[str, Any]) -> None:
    (port,) = service["ports"]
    host, _, inside = defaults(port).split(":")
    assert (host, inside) == ("127.0.0.1", instruction("EXPOSE"))


def test_the_token_is_a_secret_and_no_variable(compose: dict[str, Any], service: dict[str, Any]) -> None:
    (secret,) = service["secrets"]
    assert service["environment"]["KVFS_TOKEN_FILE"] == f"/run/secrets/{secret}"
    assert "KVFS_TOKEN" not in service["environment"]
    assert compose["secrets"][secret]["file"].startswith("./secrets/")
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_variable_is_an_option_of_the_server(service: dict[str, Any]) -> None:
    documented = (ROOT / "docs/server.md").read_text()
    for name, text in service["environment"].items():
        assert f"`{name}" in documented
        assert isinstance(text, str), "YAML would make another thing of it"


def test_it_is_given_more_time_to_stop_than_it_takes(service: dict[str, Any]) -> None:
    assert int(service["stop_grace_period"].removesuffix("s")) > STOPS_WITHIN_S


def test_the_health_check_is_the_images_own(service: dict[str, Any]) -> None:
    assert "healthcheck" not in service
    healthcheck = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    (command,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", healthcheck, re.MULTILINE)
    assert json.loads(command) == ["python", "-m", "server.healthcheck"]
