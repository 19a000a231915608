from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from provisioner.config import Settings, Template, load
from provisioner.config.shape import json_schema
from provisioner.model.errors import ConfigError
from tests.unit.config.config_samples import BASE, changed, examined

HERE = Path(__file__).parent
DOCS = HERE.parents[2] / "docs"


def test_the_sample_of_the_docs_loads() -> None:
    settings = load(DOCS / "sample" / "provisioner.yaml", {})
    assert settings.id == "sample"
    assert [template.name for template in settings.templates] == ["maven", "small"]


def test_what_the_sample_gives_as_defaults_are_the_defaults() -> None:
    text = (DOCS / "sample" / "provisioner.yaml").read_text()
    sample = load(DOCS / "sample" / "provisioner.yaml", {})
    assert "A key that is left out has the value shown here" in text
    least = Settings.model_validate(BASE)
    maven, plain = sample.templates[0], least.templates[0]
    assert (sample.http.listen, sample.limits, sample.state) == (least.http.listen, least.limits, least.state)
    assert sample.token_file == least.token_file
    assert sample.work_dir(sample.providers[1]) == Path("/var/lib/provisioner/work")
    for key in ("pull", "transport", "java", "remote_fs", "retries"):
        assert getattr(maven, key) == getattr(plain, key), key
    for key in ("pull_s", "connect_s", "build_s"):
        assert getattr(maven.timeouts, key) == getattr(plain.timeouts, key), key
    for key in ("bridge", "poll_interval_s", "timeout_s"):
        assert getattr(sample.controllers[0], key) == getattr(least.controllers[0], key), key
    assert sample.providers[0].timeout_s == least.providers[0].timeout_s
    assert sample.providers[0].address == least.providers[0].address


def test_defaults() -> None:
    settings = Settings.model_validate(BASE)
    template = settings.template("maven")
    assert (settings.limits.agents, settings.limits.launching) == (200, 20)
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8085)
    assert settings.token_file == Path("/var/lib/provisioner/token")
    assert settings.work_dir(settings.provider("here")) == Path("/var/lib/provisioner/work/here")
    assert settings.controller("main").bridge == "auto"
    assert settings.controller("main").poll_interval_s == 1.0
    timeouts = template.timeouts
    assert (timeouts.pull_s, timeouts.connect_s, timeouts.build_s, timeouts.lifetime_s) == (1800.0, 120.0, 0.0, 0.0)
    assert (template.retries, template.standby, template.hold_on_failure, template.priority) == (1, 0, 0, 0)
    assert (template.pull, template.transport, template.java) == ("missing", "websocket", "image")
    assert (template.jobs, template.controllers, template.max_agents) == (("**",), (), None)
    assert settings.provider("here").address is None


def test_units_are_resolved() -> None:
    settings = examined(
        ("templates.0.timeouts", {"pull": "5m", "lifetime": "2d"}),
        ("templates.0.resources", {"cpus": 0.5, "memory": "4g", "shm": "256m"}),
        ("controllers.0.poll_interval", "0.5s"),
        ("templates.0.run_as", 1000),
    ).settings
    assert settings is not None
    template = settings.templates[0]
    assert (template.timeouts.pull_s, template.timeouts.lifetime_s) == (300.0, 172800.0)
    assert (template.resources.memory_bytes, template.resources.shm_bytes) == (4 << 30, 256 << 20)
    assert settings.controllers[0].poll_interval_s == 0.5
    assert template.run_as == "1000"


def test_agents_get_the_nearest_url() -> None:
    both = Settings.model_validate(
        changed(("providers.0.agent_url", "http://c"), ("controllers.0.agent_url", "http://b"))
    )
    controller = both.controllers[0]
    assert controller.url_for_agents(both.provider("box")) == "http://c/"
    assert controller.url_for_agents(both.provider("here")) == "http://b/"
    none = Settings.model_validate(BASE)
    assert none.controllers[0].url_for_agents(none.provider("box")) == "http://127.0.0.1:8080/"


@pytest.mark.parametrize(
    ("listen", "host", "port"), [("[::1]:80", "::1", 80), ("0.0.0.0:0", "0.0.0.0", 0), ("box:8085", "box", 8085)]
)
def test_listen_is_split(listen: str, host: str, port: int) -> None:
    settings = Settings.model_validate(changed(("http.listen", listen)))
    assert (settings.http.host, settings.http.port) == (host, port)


def test_settings_cannot_be_changed() -> None:
    settings = Settings.model_validate(BASE)
    with pytest.raises(ValidationError, match="frozen"):
        settings.id = "other"  # type: ignore[misc]


def test_a_refused_value_does_not_stand_in_pydantics_own_error() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(changed(("controllers.0.token", "hunter2")))
    assert "hunter2" not in str(caught.value)


def template(**keys: Any) -> Template:
    return Template.model_validate({**BASE["templates"][0], **keys})


def test_a_template_comes_back_from_its_spec() -> None:
    full = template(
        image={"docker": "a", "libvirt": "b"},
        timeouts={"pull": "90s"},
        resources={"memory": "1g", "cpus": 2},
        build={"from": "job-scm"},
        overrides={"memory": {"max": "8g"}},
        env={"A": "b"},
    )
    spec = full.spec()
    assert spec["timeouts"]["pull"] == 90.0  # type: ignore[index]
    assert spec["resources"]["memory"] == 1 << 30  # type: ignore[index]
    assert spec["build"]["from"] == "job-scm"  # type: ignore[index]
    again = Template.from_spec(spec)
    assert again == full
    assert again.version == full.version


def test_a_spec_of_another_release_is_refused_with_its_keys() -> None:
    with pytest.raises(ConfigError, match=r"cannot be read by this release; at: flavour, timeouts.nap"):
        Template.from_spec({**template().spec(), "flavour": 1, "timeouts": {"nap": 1}})


def test_the_version_changes_with_the_values_and_with_nothing_else() -> None:
    plain = template()
    assert len(plain.version) == 12
    assert plain.version == template(timeouts={"pull": 1800}, pull="missing").version
    assert template(env={"A": "1", "B": "2"}).version == template(env={"B": "2", "A": "1"}).version
    others = {
        plain.version,
        template(image="maven:4").version,
        template(priority=1).version,
        template(timeouts={"pull": "31m"}).version,
        template(labels=["maven", "b"]).version,
    }
    assert len(others) == 5


def test_images_go_by_backend() -> None:
    assert template().image_for("docker") == "maven:3"
    assert template(image={"docker": "a"}).image_for("docker") == "a"
    assert template(image={"docker": "a"}).image_for("libvirt") is None
    assert template(image=None).image_for("docker") is None


def test_a_template_serves_the_controllers_it_names_or_all() -> None:
    assert template().serves("any")
    assert template(controllers=["a"]).serves("a")
    assert not template(controllers=["a"]).serves("b")


def test_every_key_of_the_schema_is_described() -> None:
    schema = json_schema()
    parts = {"Settings": schema, **schema["$defs"]}
    bare = [
        f"{name}.{key}"
        for name, part in parts.items()
        for key, value in part.get("properties", {}).items()
        if not value.get("description")
    ]
    assert bare == []
    assert len(parts) > 20


def test_no_part_of_the_schema_takes_unknown_keys() -> None:
    schema = json_schema()
    parts = {"Settings": schema, **schema["$defs"]}
    assert [name for name, part in parts.items() if "properties" in part and part["additionalProperties"]] == []


def test_the_schema_names_the_keys_of_the_file_and_the_forms_of_their_values() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "poll_interval" in schema["$defs"]["Controller"]["properties"]
    pull = schema["$defs"]["Timeouts"]["properties"]["pull"]
    assert {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?[smhd]?$"} in pull["anyOf"]
    assert schema["$defs"]["SecretRef"]["oneOf"] == [{"required": ["env"]}, {"required": ["file"]}]
    assert schema["required"] == ["id", "controllers"]
