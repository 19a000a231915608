"""The jobs as code: one script in each, whatever the form."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

JOBS = Path(__file__).parents[3] / "jenkins-test" / "jobs"
ALONE = "org.jenkinsci.plugins.workflow.job.properties.DisableConcurrentBuildsJobProperty"


class RawLoader(yaml.SafeLoader):
    """Knows Job Builder's `!include-raw-verbatim`; what it calls `!include-raw` chokes on braces."""


both = pytest.mark.parametrize("job", ["node-cleanup", "cleanup-scheduler"])


def parsed(job: str) -> ET.Element:
    # what XML 1.1 allows beyond 1.0 is not used, and this parser knows only 1.0
    return ET.fromstring((JOBS / job / "config.xml").read_text().replace("version='1.1'", "version='1.0'"))


@both
def test_the_plain_configuration_holds_the_same_script(job: str) -> None:
    (script,) = parsed(job).iter("script")
    assert script.text == (JOBS / job / "Jenkinsfile").read_text()


@both
def test_job_builder_and_job_dsl_read_the_script(job: str) -> None:
    RawLoader.add_constructor("!include-raw-verbatim:", lambda loader, node: (JOBS / job / str(node.value)).read_text())
    ((made,),) = ([item["job"] for item in yaml.load((JOBS / job / "job.yaml").read_text(), RawLoader)],)
    assert made["name"] == job
    assert made["dsl"] == (JOBS / job / "Jenkinsfile").read_text()
    # left out, Job Builder forbids it, and one node is cleaned after the other
    assert made["concurrent"] == (parsed(job).find(f".//{ALONE}") is None)
    (description,) = (found.text for found in parsed(job) if found.tag == "description")
    assert made["description"] == description
    dsl = (JOBS / job / "job.groovy").read_text()
    assert f"pipelineJob('{job}')" in dsl
    (read,) = re.findall(r"readFileFromWorkspace\('([^']+)'\)", dsl)
    assert (JOBS / read).read_text() == made["dsl"]
    assert dsl.count("{") == dsl.count("}")


def test_the_cleanup_job_has_the_schedulers_parameter_in_every_form() -> None:
    assert [name.text for name in parsed("node-cleanup").iter("name")] == ["NODE"]
    assert "stringParam('NODE'" in (JOBS / "node-cleanup" / "job.groovy").read_text()
    assert "name: NODE" in (JOBS / "node-cleanup" / "job.yaml").read_text()
