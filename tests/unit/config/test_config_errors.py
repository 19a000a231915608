# ruff: noqa: E501  (a case is a line)
"""What `check` says: the place, what is wrong, what would be right."""

from typing import Any

import pytest

from provisioner.config import cautions
from tests.unit.config.config_samples import REMOVED, examined, told, told_of

MACHINE = {"controller": "main", "node": "n", "ssh": "u@h", "key": "/k", "host_key": "ssh-ed25519 AAAA"}
T = "templates.0"
P = "providers.0"
C = "controllers.0"

CASES: list[tuple[str, list[tuple[str, Any]], str, str]] = [
    # name, changes, path, part of the text
    ("an unknown key with a close one", [(f"{T}.lables", [])], "templates[0].lables", "did you mean labels?"),
    ("a key one level too high", [(f"{T}.memory", "4g")], "templates[0].memory", "did you mean resources.memory?"),
    ("an unknown key", [("zzz", 1)], "zzz", "is not a key here; known are id, controllers, state"),
    ("an unknown key in a part", [(f"{T}.timeouts.pul", 1)], "templates[0].timeouts.pul", "did you mean pull?"),
    ("an internal name of a key", [(f"{T}.timeouts.pull_s", 1)], "templates[0].timeouts.pull_s", "did you mean pull?"),
    ("a missing key", [(f"{P}.max_agents", REMOVED)], "providers[0].max_agents", "is missing; expected: most agents"),
    ("no id", [("id", REMOVED)], "id", "is missing; expected: owner id"),
    ("an id in capitals", [("id", "Prod")], "id", '"Prod" cannot be an id; write up to 40 of a-z, 0-9 and -'),
    ("an id that is too long", [("id", "a" * 41)], "id", "cannot be an id"),
    ("an id with a leading dash", [("id", "-a")], "id", "cannot be an id"),
    ("a number for text", [("id", 5)], "id", "must be text; put it in quotes"),
    ("a list for text", [("id", ["a"])], "id", "must be text; expected: owner id"),
    ("no controllers", [("controllers", [])], "controllers", "must not be empty; expected: Jenkins controllers"),
    ("a mapping for a list", [("controllers", {"a": 1})], "controllers", "must be a list; expected: Jenkins"),
    ("a word for a mapping", [("limits", "many")], "limits", "must be a mapping; expected: bounds"),
    ("an entry that is no mapping", [(T, "maven")], "templates[0]", "must be a mapping; expected: what to start"),
    ("a key without a value", [("limits.agents", None)], "limits.agents", "has no value; expected: most agents"),
    ("a fraction for a whole number", [("limits.agents", 1.5)], "limits.agents", "must be a whole number"),
    ("a bool for a number", [("limits.agents", True)], "limits.agents", "must be a whole number"),
    ("text for a number", [("limits.agents", "5")], "limits.agents", "must be a whole number"),
    ("too small a number", [("limits.agents", 0)], "limits.agents", "must be at least 1"),
    ("too large a number", [("limits.agents", 10**9)], "limits.agents", "must be at most 1000000"),
    ("negative retries", [(f"{T}.retries", -1)], "templates[0].retries", "must be at least 0"),
    ("a word that is close", [(f"{T}.pull", "mising")], "templates[0].pull", '"mising" is not known here; write missing'),
    ("a word that is not", [(f"{T}.pull", 7)], "templates[0].pull", "write missing, always or never"),
    ("a bad duration", [(f"{T}.timeouts.pull", "3 min")], "templates[0].timeouts.pull", "is not a duration; write"),
    ("a pull of no time", [(f"{T}.timeouts.pull", 0)], "templates[0].timeouts.pull", "must be more than 0"),
    ("a connect of no time", [(f"{T}.timeouts.connect", "0s")], "templates[0].timeouts.connect", "more than 0"),
    ("polls without pause", [(f"{C}.poll_interval", 0)], "controllers[0].poll_interval", "must be at least 0.1"),
    ("a bad size", [(f"{T}.resources.memory", "4 gigs")], "templates[0].resources.memory", "is not a size; write"),
    ("a size without its unit", [(f"{T}.resources.memory", 4)], "templates[0].resources.memory", "at least 6291456"),
    ("no processors", [(f"{T}.resources.cpus", 0)], "templates[0].resources.cpus", "must be more than 0"),
    ("a URL without scheme", [(f"{C}.url", "jenkins:8080")], "controllers[0].url", "is not an http or https URL; write"),
    ("an ftp URL", [(f"{C}.url", "ftp://x/")], "controllers[0].url", "is not an http or https URL"),
    ("a URL without host", [(f"{C}.agent_url", "http:///x")], "controllers[0].agent_url", "not an http or https URL"),
    ("a URL with a bad port", [(f"{C}.url", "http://x:99999/")], "controllers[0].url", "is not a URL; write"),
    ("a URL with a query", [(f"{C}.url", "http://x/?a=b")], "controllers[0].url", "without query, fragment"),
    ("a URL with a line break", [(f"{C}.url", "http://x/\n")], "controllers[0].url", "without query, fragment or blank"),
    ("an empty user", [(f"{C}.user", " ")], "controllers[0].user", "must not be empty"),
    ("a place without port", [("http.listen", "localhost")], "http.listen", "not an address to listen at; write host:port"),
    ("a bare IPv6 address", [("http.listen", "::1:80")], "http.listen", "not an address to listen at"),
    ("a port beyond the last", [("http.listen", "x:65536")], "http.listen", "65536 is not a port"),
    (
        "a registry's URL",
        [("registries", [{"host": "https://r.example/v2", "username": "u", "password": {"env": "X"}}])],
        "registries[0].host",
        "write host or host:port, without https://",
    ),
    ("a template's name in capitals", [(f"{T}.name", "Maven")], "templates[0].name", "cannot begin the names of nodes"),
    ("a template's name with a dot", [(f"{T}.name", "a.b")], "templates[0].name", "cannot begin the names of nodes"),
    ("a template's name of 41", [(f"{T}.name", "a" * 41)], "templates[0].name", "cannot begin the names of nodes"),
    ("a template's name with a dash last", [(f"{T}.name", "a-")], "templates[0].name", "- only inside"),
    ("no labels", [(f"{T}.labels", [])], "templates[0].labels", "must not be empty; expected: labels"),
    ("labels in one word", [(f"{T}.labels", "maven linux")], "templates[0].labels", "must be a list"),
    ("a label twice", [(f"{T}.labels", ["a", "a"])], "templates[0].labels[1]", '"a" is taken already'),
    ("a stray brace", [(f"{T}.labels", ["image={"])], "templates[0].labels[0]", "holds a stray brace"),
    (
        "a place holder that nothing fills",
        [(f"{T}.labels", ["image={image}"])],
        "templates[0].labels[0]",
        "{image} can be filled only if `overrides` allows it; add `image` there",
    ),
    ("a place holder of no override", [(f"{T}.labels", ["x={copy}"])], "templates[0].labels[0]", "add `copy` there"),
    ("a job from the root", [(f"{T}.jobs", ["/a/b"])], "templates[0].jobs[0]", "matches no job; write a full name"),
    ("no controllers", [(f"{T}.controllers", [])], "templates[0].controllers", "must not be empty; expected: controllers that it serves; default: all"),
    ("a yes", [(f"{T}.read_only", "yes")], "templates[0].read_only", "must be true or false; write one of the two, without quotes"),
    ("a one for a yes", [(f"{T}.read_only", 1)], "templates[0].read_only", "must be true or false; write one of the two"),
    ("a yes in quotes", [(f"{T}.read_only", "true")], "templates[0].read_only", "must be true or false; write one of the two"),
    ("no jobs", [(f"{T}.jobs", [])], "templates[0].jobs", "must not be empty"),
    ("a relative work folder", [(f"{T}.remote_fs", "agent")], "templates[0].remote_fs", "not an absolute path"),
    ("a climbing work folder", [(f"{T}.remote_fs", "/a/../b")], "templates[0].remote_fs", "has no .."),
    ("a bad user", [(f"{T}.run_as", "a b")], "templates[0].run_as", "is not a user; write user or user:group"),
    ("a variable's bad name", [(f"{T}.env", {"A-B": "x"})], "templates[0].env.A-B", "cannot be a variable's name"),
    ("a number in env", [(f"{T}.env", {"A": 5})], "templates[0].env.A", "must be text; put it in quotes"),
    ("a zero character in env", [(f"{T}.env", {"A": "a\0"})], "templates[0].env.A", "holds a zero character"),
    ("a host's bad address", [(f"{T}.extra_hosts", {"a": "b"})], "templates[0].extra_hosts.a", "not an IP address"),
    ("a bad host", [(f"{T}.extra_hosts", {"a b": "::1"})], "templates[0].extra_hosts.a b", "is not a host's name"),
    ("a bad name server", [(f"{T}.dns", ["8.8.8"])], "templates[0].dns[0]", '"8.8.8" is not an IP address; write'),
    ("an endpoint with a password", [(f"{P}.endpoint", "ssh://a:b@c")], "providers[0].endpoint", "must not hold a password; write ssh://user@host"),
    ("an image with a blank", [(f"{T}.image", "a b")], "templates[0].image", '"a b" is not an image\'s name'),
    ("an image like an option", [(f"{T}.image", "--rm")], "templates[0].image", "is not an image's name"),
    ("an image that is a list", [(f"{T}.image", ["a"])], "templates[0].image", "must be text; expected: image, or a"),
    ("an image for no backend", [(f"{T}.image", {"dokcer": "a"})], "templates[0].image.dokcer", "write docker"),
    ("a bad image for a backend", [(f"{T}.image", {"docker": "a b"})], "templates[0].image.docker", "not an image's name"),
    # between the parts
    ("a controller's name twice", [("controllers.1", {"name": "main", "url": "http://b/", "user": "u", "token": {"env": "T"}})], "controllers[1].name", '"main" is taken already'),
    ("a controller's url twice", [("controllers.1", {"name": "b", "url": "http://127.0.0.1:8080", "user": "u", "token": {"env": "T"}})], "controllers[1].url", "is taken already"),
    ("a provider's name twice", [("providers.1.name", "box")], "providers[1].name", '"box" is taken already'),
    ("a template's name twice", [("templates.1", {"name": "maven", "labels": ["b"], "providers": ["here"]})], "templates[1].name", '"maven" is taken already'),
    ("no templates", [("templates", [])], "templates", "is missing or empty; write what to start"),
    ("templates forgotten", [("templates", REMOVED)], "templates", "is missing or empty; write what to start"),
    ("an unknown provider", [(f"{T}.providers", ["box", "bx"])], "templates[0].providers[1]", '"bx" is none of the providers; write one of box, here'),
    ("a provider twice", [(f"{T}.providers", ["box", "box"])], "templates[0].providers[1]", '"box" stands twice'),
    ("no provider", [(f"{T}.providers", [])], "templates[0].providers", "must not be empty"),
    ("an unknown controller", [(f"{T}.controllers", ["x"])], "templates[0].controllers[0]", "is none of the controllers; write one of main"),
    ("an image forgotten", [(f"{T}.image", REMOVED)], "templates[0].image", "is missing; provider box needs one, write `image` or `build`"),
    ("an image for another backend only", [(f"{T}.image", {"libvirt": "debian"})], "templates[0].image", "has none for backend docker of provider box; add `docker: IMAGE`"),
    ("an image beside a build", [(f"{T}.build", {"context": "."})], "templates[0].image", "stands beside `build`"),
    ("an endpoint of a process", [("providers.1.endpoint", "unix:///x")], "providers[1].endpoint", "is not for backend process"),
    ("an endpoint of another kind", [(f"{P}.endpoint", "qemu:///system")], "providers[0].endpoint", "is not an address for backend docker; write one with unix://, tcp://, ssh://"),
    ("an endpoint without a path", [(f"{P}.endpoint", "unix://var/run/docker.sock")], "providers[0].endpoint", "write unix:///PATH with three slashes"),
    ("an endpoint without host", [(f"{P}.endpoint", "tcp://")], "providers[0].endpoint", "names no host; write tcp://HOST"),
    ("an endpoint without port", [(f"{P}.endpoint", "tcp://x")], "providers[0].endpoint", "names no port; write tcp://HOST:PORT"),
    ("an endpoint that is none", [(f"{P}.endpoint", "tcp://[x")], "providers[0].endpoint", "is not an address; write"),
    ("an open endpoint", [(f"{P}.endpoint", "tcp://box:2375")], "providers[0].tls", "is open to everyone on the way, add {ca, cert, key}"),
    ("tls without tcp", [(f"{P}.tls", {"ca": "a", "cert": "b", "key": "c"})], "providers[0].tls", "is for a tcp:// endpoint only"),
    ("ssh files without ssh", [(f"{P}.ssh", {"key": "k"})], "providers[0].ssh", "is for an ssh:// endpoint only"),
    ("a path behind ssh", [(f"{P}.endpoint", "ssh://a@b/run/docker.sock")], "providers[0].endpoint", "write ssh://USER@HOST"),
    ("one agent_url for two", [("controllers.1", {"name": "b", "url": "http://b/", "user": "u", "token": {"env": "T"}}), (f"{P}.agent_url", "http://c/")], "providers[0].agent_url", "is one URL and agents of b, main start here"),
    ("a network of a process", [("providers.1.network", "host")], "providers[1].network", "is not for backend process"),
    ("a java of an engine", [(f"{P}.java", "/usr/bin/java")], "providers[0].java", "is for backend process only, not for docker"),
    ("a cleanup of no controller", [("cleanup", {"controller": "x", "job": "j"})], "cleanup.controller", '"x" is none of the controllers'),
    ("a cleanup with one label for two", [("cleanup", {"controller": "main", "job": "j", "labels": {"dirty": "clean"}})], "cleanup.labels", "must be three different labels"),
    ("a lent machine of no controller", [("loans", {"machines": [MACHINE | {"controller": "x"}]})], "loans.machines[0].controller", '"x" is none of the controllers'),
    ("a lent machine twice", [("loans", {"machines": [MACHINE, MACHINE]})], "loans.machines[1].node", '"n" stands twice for controller main'),
    ("a lent machine without account", [("loans", {"machines": [MACHINE | {"ssh": "host"}]})], "loans.machines[0].ssh", "write USER@HOST or USER@HOST:PORT"),
    ("a lent machine without host key", [("loans", {"machines": [MACHINE | {"host_key": "SHA256:x"}]})], "loans.machines[0].host_key", "is no host key; write what `ssh-keyscan HOST` prints"),
    ("a loan into a folder above", [("loans", {"folder": "../x"})], "loans.folder", "is no usable folder"),
    ("a lease of nothing", [("loans", {"lease": 0})], "loans.lease", "must be more than 0"),
    ("a gateway at no port", [("gateway", {"listen": "127.0.0.1"})], "gateway.listen", "is not an address to listen at"),
    ("a gateway at an address that is none", [("gateway", {"address": "a b:22"})], "gateway.address", "is not an address; write host or host:port"),
    ("a gateway at no address in particular", [(f"{T}.transport", "ssh-gateway"), ("gateway", {"listen": "0.0.0.0:2222"})], "gateway.address", "`listen` names no address that a controller could dial"),
    ("a gateway that its controller does not reach", [(f"{T}.transport", "ssh-gateway"), ("controllers.0.url", "http://jenkins.example.org/")], "gateway.address", "controller main is on another machine"),
    ("static nodes without cleanup", [("providers.1", {"name": "here", "backend": "static", "max_agents": 2})], "providers[1].backend", "is for the nodes that `cleanup` looks after; add `cleanup`"),
    ("static nodes after others", [("providers.1", {"name": "here", "backend": "static", "max_agents": 2}), ("cleanup", {"controller": "main", "job": "j"}), (f"{T}.providers", ["box", "here"])], "templates[0].providers[1]", '"here" has static nodes, which are asked before anything is started; write it first'),
    ("static nodes of another controller", [("providers.1", {"name": "here", "backend": "static", "max_agents": 2}), ("controllers.1", {"name": "b", "url": "http://b/", "user": "u", "token": {"env": "T"}}), ("cleanup", {"controller": "main", "job": "j"}), (f"{T}.providers", ["here", "box"])], "templates[0].controllers", "must be [main]; provider here has nodes of that one only"),
    ("an endpoint of static nodes", [("providers.1", {"name": "here", "backend": "static", "max_agents": 2, "endpoint": "unix:///x"}), ("cleanup", {"controller": "main", "job": "j"})], "providers[1].endpoint", "is not for backend static"),
    ("labels of nodes for an engine", [(f"{P}.node_labels", ["x"])], "providers[0].node_labels", "is for backend static only, not for docker"),
    ("an override without bounds", [(f"{T}.overrides.memory", {"parameter": "M"})], "templates[0].overrides.memory", "needs an allow-list or a maximum"),
    ("an image override without list", [(f"{T}.overrides.image", {"parameter": "I"})], "templates[0].overrides.image", "needs an allow-list"),
    ("an image override with a maximum", [(f"{T}.overrides.image", {"max": 5})], "templates[0].overrides.image.max", "is not a key here"),
    ("a secret that is nowhere", [(f"{T}.secrets", [{"file": "/a"}])], "templates[0].secrets[0]", "add `at: PATH` or `env: VARIABLE`"),
    ("a volume of two kinds", [(f"{T}.volumes", [{"cache": "a", "workspace": "per-job", "at": "/a"}])], "templates[0].volumes[0]", "must be one thing"),
    ("a cache without place", [(f"{T}.volumes", [{"cache": "a"}])], "templates[0].volumes[0]", "a cache needs a place"),
    ("two volumes in one place", [(f"{T}.volumes", [{"cache": "a", "at": "/a"}, {"cache": "b", "at": "/a"}])], "templates[0].volumes[1].at", '"/a" is taken already'),
    ("two sidecars of one name", [(f"{T}.sidecars", [{"name": "a", "image": "x"}, {"name": "a", "image": "x"}])], "templates[0].sidecars[1].name", '"a" is taken already'),
    ("a build of two sources", [(f"{T}.build", {"context": "x", "from": "job-scm"})], "templates[0].build", "must have one source"),
    ("a template that extends itself", [(f"{T}.extends", "maven")], "templates[0].extends", "names the template itself"),
    ("a template that extends none", [(f"{T}.extends", "base")], "templates[0].extends", '"base" is none of the templates'),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "path", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_mistake_is_told_once_with_its_place(changes: list[tuple[str, Any]], path: str, text: str) -> None:
    here = [line for line in told(*changes) if line.startswith(f"{path}: ") and "not yet" not in line]
    assert len(here) == 1
    assert text in here[0]


@pytest.mark.parametrize(
    "changes", [case[1] for case in CASES if "twice" not in case[0]], ids=[c[0] for c in CASES if "twice" not in c[0]]
)
def test_one_mistake_draws_no_others_after_it(changes: list[tuple[str, Any]]) -> None:
    assert len([line for line in told(*changes) if "not yet" not in line]) == 1


@pytest.mark.parametrize("label", ["a b", "a&&b", "a|b", "!a", "(a)", "a->b", "a<b", '"a"', "a'b", "a\tb", ""])
def test_a_label_that_would_be_an_expression_is_refused(label: str) -> None:
    (line,) = told(("templates.0.labels", ["fine", label]))
    assert line.startswith("templates[0].labels[1]: ")
    assert "cannot be a label; write one word" in line


@pytest.mark.parametrize("label", ["maven", "jdk-17", "os:linux", "image=maven:3.9", "a.b_c", "größe", "a,b", "c++"])
def test_other_labels_are_taken(label: str) -> None:
    assert told(("templates.0.labels", [label])) == []


def test_all_mistakes_come_at_once_in_the_order_of_the_file() -> None:
    lines = told_of(
        """\
id: Bad
controllers:
  - name: main
    url: nowhere
    user: u
    token: hunter2
    polls: 1
providers:
  - {name: box, backend: docker, max_agents: 0}
templates:
  - name: maven
    labels: [a b]
    providers: [bix]
    hold_on_failure: two
    timeouts:
      pull: soon
  - labels: [b]
    providers: [box, nobody]
"""
    )
    places = [line.split(": ")[0] + " " + line.split(": ")[1] for line in lines]
    assert places == [
        "p.yaml:1 id",
        "p.yaml:4 controllers[0].url",
        "p.yaml:6 controllers[0].token",
        "p.yaml:7 controllers[0].polls",
        "p.yaml:9 providers[0].max_agents",
        "p.yaml:12 templates[0].labels[0]",
        "p.yaml:13 templates[0].providers[0]",
        "p.yaml:14 templates[0].hold_on_failure",
        "p.yaml:16 templates[0].timeouts.pull",
        "p.yaml:17 templates[1].name",
        "p.yaml:17 templates[1].image",
        "p.yaml:18 templates[1].providers[1]",
    ]


def test_one_wrong_entry_of_a_list_does_not_hide_what_is_wrong_with_the_others() -> None:
    assert [line.split(": ")[0] for line in told((f"{T}.labels", ["a b", "{image}", "{nope}", "t", "t"]))] == [
        "templates[0].labels[0]",
        "templates[0].labels[1]",
        "templates[0].labels[2]",
        "templates[0].labels[4]",
    ]
    lines = told((f"{T}.providers", ["b x", "here", "nobody", "here"]), (f"{T}.controllers", ["-", "nope"]))
    assert [line.split(": ")[0] for line in lines] == [
        "templates[0].providers[0]",
        "templates[0].providers[2]",
        "templates[0].providers[3]",
        "templates[0].controllers[0]",
        "templates[0].controllers[1]",
    ]


def test_what_is_wrong_with_a_lent_machine_comes_with_what_is_wrong_with_loans() -> None:
    wrong = MACHINE | {"controller": "nope", "ssh": "foo", "host_key": "junk"}
    lines = told(("loans", {"lease": 0, "machines": [wrong, MACHINE, MACHINE | {"java": 5}]}))
    assert {line.split(": ")[0] for line in lines} == {
        "loans.lease",
        "loans.machines[0].ssh",
        "loans.machines[0].host_key",
        "loans.machines[0].controller",
        "loans.machines[2].java",
        "loans.machines[2].node",
    }


def test_machines_whose_controller_or_node_is_wrong_are_not_called_the_same() -> None:
    here = {"controller": "a b", "node": "n"}, {"controller": "main", "node": ""}
    lines = told(("loans", {"machines": [MACHINE | wrong for wrong in here for _ in range(2)]}))
    assert [line.split(": ")[0] for line in lines] == [
        "loans.machines[0].controller",
        "loans.machines[1].controller",
        "loans.machines[2].node",
        "loans.machines[3].node",
    ]


def test_what_depends_on_a_broken_provider_is_not_called_wrong() -> None:
    assert told(("providers.0.backend", "dokcer"), ("templates.0.image", REMOVED)) == [
        'providers[0].backend: "dokcer" is not known here; write docker'
    ]
    assert told(("providers.0.max_agents", 0)) == [
        "providers[0].max_agents: must be at least 1; expected: most agents at this provider at any instant"
    ]


def test_a_process_provider_needs_no_image() -> None:
    assert examined(("templates.0.providers", ["here"]), ("templates.0.image", REMOVED)).settings is not None


def test_an_engine_on_loopback_may_do_without_tls() -> None:
    assert told(("providers.0.endpoint", "tcp://127.0.0.1:2375")) == []
    settings = examined(("providers.0.endpoint", "tcp://127.0.0.1:2375")).settings
    assert settings is not None
    (caution,) = cautions(settings)
    assert caution.startswith("providers[0].endpoint: tcp://127.0.0.1:2375 has no TLS")


def test_an_engine_over_ssh_or_with_tls_is_accepted_as_it_is() -> None:
    files = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    for change in (
        [
            ("providers.0.endpoint", "ssh://ci@big.example.org:2222"),
            ("providers.0.ssh", {"key": "id", "known_hosts": "k"}),
        ],
        [("providers.0.endpoint", "ssh://ci@big.example.org")],
        [("providers.0.endpoint", "tcp://big.example.org:2376"), ("providers.0.tls", files)],
    ):
        settings = examined(*change, ("providers.0.agent_url", "http://jenkins:8080/")).settings
        assert settings is not None
        assert list(cautions(settings)) == []


def test_an_unknown_key_may_look_like_a_mark_of_the_library() -> None:
    assert any(line.startswith("p.yaml:1: [key]: is not a key here") for line in told_of('"[key]":\n'))
