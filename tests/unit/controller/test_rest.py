"""What comes back from a controller, told apart."""

from __future__ import annotations

import base64
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from provisioner.controller.rest import Rest
from provisioner.model.errors import ControllerError
from tests.unit.controller.scripted_controller import JENKINS, Asked, Script


def refusal(rest: Rest, path: str = "api/json", method: str = "GET") -> ControllerError:
    def ask() -> None:
        rest.get(path, op="probe") if method == "GET" else rest.call(method, path, op="probe")

    with pytest.raises(ControllerError) as caught:
        ask()
    error = caught.value
    assert "s3cret-token" not in str(error)
    assert "main" in error.message
    assert rest.url in error.message
    assert "\n" not in error.message
    return error


def test_an_answer_carries_version_and_session(rest: Rest, controller: Script) -> None:
    controller.replay("01-auth-and-discovery.json", "root api, token")
    assert rest.get("api/json?tree=mode", op="open")["mode"] == "NORMAL"
    assert (rest.version, rest.session) == ("2.460", "08cdab80")
    asked = controller.asked[-1]
    assert asked.headers["Accept-Language"] == "en"
    assert asked.headers["Authorization"] == "Basic " + base64.b64encode(b"ci:s3cret-token").decode()


def test_a_wrong_token_is_a_401_in_plain_words(rest: Rest, controller: Script) -> None:
    controller.replay("01-auth-and-discovery.json", "root api bad token")
    error = refusal(rest)
    assert (error.code, error.retryable) == (401, False)
    assert "does not accept the user ci" in error.message


def test_a_missing_permission_is_named_from_the_page(rest: Rest, controller: Script) -> None:
    controller.on("POST", "/computer/doCreateItem", 403, b"<p>ci is missing the Agent/Create permission</p>")
    error = refusal(rest, "computer/doCreateItem", "POST")
    assert error.code == 403
    assert "lacks the permission Agent/Create" in error.message


def test_a_missing_permission_is_named_from_the_header(rest: Rest, controller: Script) -> None:
    headers = {**JENKINS, "X-Required-Permission": "hudson.model.Computer.Delete"}
    controller.on("POST", "/computer/a/doDelete", 403, b"<html>", headers)
    assert "hudson.model.Computer.Delete" in refusal(rest, "computer/a/doDelete", "POST").message


def test_an_unknown_place_is_a_404(rest: Rest, controller: Script) -> None:
    controller.replay("01-auth-and-discovery.json", "unknown path")
    error = refusal(rest, "nope/api/json?tree=x")
    assert (error.code, error.retryable) == (404, False)
    assert "there is no nope/api/json" in error.message
    assert "tree=" not in error.message


def test_a_conflict_tells_the_controllers_own_words(rest: Rest, controller: Script) -> None:
    controller.on("POST", "/provisioner-bridge/hello", 409, {"error": "protocol", "speaks": [2]})
    with pytest.raises(ControllerError, match=r"409\): protocol") as caught:
        rest.post("provisioner-bridge/hello", {"protocol": 1}, op="hello")
    assert caught.value.code == 409


def test_a_controller_that_starts_is_asked_again(rest: Rest, controller: Script) -> None:
    controller.on("GET", "/api/json", 503, b"<html>Jenkins is getting ready to work</html>", {})
    error = refusal(rest)
    assert (error.code, error.retryable) == (503, True)
    assert "starting" in error.message


def test_a_fault_inside_the_controller_is_retryable(rest: Rest, controller: Script) -> None:
    controller.replay("03-queue.json", "cancel queue item again", path="/queue/cancelItem")
    error = refusal(rest, "queue/cancelItem?id=7", "POST")
    assert (error.code, error.retryable) == (500, True)


def test_a_page_of_something_else_is_no_answer(rest: Rest, controller: Script) -> None:
    controller.on("GET", "/api/json", 200, b"<html>welcome</html>", {"Content-Type": "text/html"})
    error = refusal(rest)
    assert error.code == 200
    assert "is a Jenkins at this URL?" in error.message
    assert rest.version == ""


def test_a_redirect_of_a_read_is_not_followed(rest: Rest, controller: Script) -> None:
    controller.on("GET", "/api/json", 302, b"", {"Location": "https://sso.example/login?from=x"})
    error = refusal(rest)
    assert error.code == 302
    assert controller.paths() == ["/api/json"]


def test_a_redirect_to_a_login_page_is_no_success_of_a_post(rest: Rest, controller: Script) -> None:
    controller.on("POST", "/computer/a/doDelete", 302, b"", {"Location": controller.url + "login?from=%2F"})
    error = refusal(rest, "computer/a/doDelete", "POST")
    assert error.code == 401
    assert "login page" in error.message


def test_the_redirect_that_means_done_is_success_and_not_followed(rest: Rest, controller: Script) -> None:
    controller.replay("02-nodes.json", "delete node", path="/computer/login-x/doDelete")
    assert rest.call("POST", "computer/login-x/doDelete", op="remove").status == 302
    assert controller.paths() == ["/crumbIssuer/api/json", "/computer/login-x/doDelete"]


def test_a_stale_crumb_is_fetched_again_once(rest: Rest, controller: Script) -> None:
    def crumb(value: str) -> dict[str, str]:
        return {"crumb": value, "crumbRequestField": "Jenkins-Crumb"}

    controller.answers.clear()
    controller.on("GET", "/crumbIssuer/api/json", 200, crumb("old"))
    controller.on("GET", "/crumbIssuer/api/json", 200, crumb("new"))

    def post(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        good = asked.headers.get("Jenkins-Crumb") == "new"
        return (200, JENKINS, b"{}") if good else (403, {}, b"No valid crumb was included in the request")

    controller.call("POST", "/x", post)
    assert rest.call("POST", "x", op="probe").status == 200
    assert rest.call("POST", "x", op="probe").status == 200
    assert controller.paths() == ["/crumbIssuer/api/json", "/x", "/crumbIssuer/api/json", "/x", "/x"]


def test_a_crumb_that_stays_refused_ends(rest: Rest, controller: Script) -> None:
    controller.answers.clear()
    controller.on("GET", "/crumbIssuer/api/json", 200, {"crumb": "a", "crumbRequestField": "Jenkins-Crumb"})
    controller.replay("01-auth-and-discovery.json", "POST with password and no crumb")
    error = refusal(rest, "quietDown", "POST")
    assert error.code == 403
    assert "use an API token" in error.message
    assert controller.paths("POST") == ["/quietDown", "/quietDown"]


def test_a_wrong_token_is_told_when_the_crumb_is_asked_for(rest: Rest, controller: Script) -> None:
    controller.answers.clear()
    controller.on("GET", "/crumbIssuer/api/json", 401, b"<html>")
    assert refusal(rest, "x", "POST").code == 401


def test_nothing_that_listens_is_told_apart() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        rest = Rest(name="main", url=f"http://127.0.0.1:{unused.getsockname()[1]}", user="ci", token="s3cret-token")
        error = refusal(rest)
    assert (error.code, error.retryable) == (0, True)
    assert "refused" in error.message
    assert rest.counts() == {("probe", "0"): 1}
    rest.close()


def test_a_host_name_that_is_not_known_is_told_apart() -> None:
    rest = Rest(name="main", url="http://no-such-host.invalid", user="ci", token="s3cret-token", timeout_s=2.0)
    error = refusal(rest)
    assert (error.code, error.retryable) == (0, True)
    assert "no-such-host.invalid is not known" in error.message
    rest.close()


def test_silence_ends_with_the_time_out(rest: Rest, controller: Script) -> None:
    released = threading.Event()

    def wait(_asked: Asked) -> tuple[int, dict[str, str], bytes]:
        released.wait(10)
        return 200, JENKINS, b"{}"

    controller.call("GET", "/slow", wait)
    with pytest.raises(ControllerError, match=r"no answer within 0\.05 s") as caught:
        rest.get("slow", op="probe", timeout_s=0.05)
    released.set()
    assert (caught.value.code, caught.value.retryable) == (0, True)


def test_https_at_an_http_port_is_told_apart(controller: Script) -> None:
    rest = Rest(name="main", url=controller.url.replace("http:", "https:"), user="ci", token="s3cret-token")
    assert "no TLS connection" in refusal(rest).message
    rest.close()


def test_requests_are_counted_by_what_they_are_for(rest: Rest, controller: Script) -> None:
    controller.on("GET", "/queue/api/json", 200, {"items": []})
    for _ in range(3):
        rest.get("queue/api/json", op="queue")
    with pytest.raises(ControllerError):
        rest.get("gone", op="node")
    assert rest.counts() == {("queue", "200"): 3, ("node", "404"): 1}


def test_many_threads_share_one_client(rest: Rest, controller: Script) -> None:
    controller.call("GET", "/echo", lambda asked: (200, JENKINS, asked.query["n"].encode()))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: rest.get(f"echo?n={n}", op="echo"), range(100)))
    assert found == list(range(100))
    assert rest.counts() == {("echo", "200"): 100}


def test_a_script_that_fails_is_still_text(rest: Rest, controller: Script) -> None:
    controller.replay("05-script-and-credentials.json", "script console: run-time error is 200")
    assert rest.script("throw new IllegalStateException('boom')").startswith("java.lang.IllegalStateException: boom")
