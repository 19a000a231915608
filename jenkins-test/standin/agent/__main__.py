"""The stand-in's agent: started with agent.jar's arguments, standard library only, quick to start."""

# ruff: noqa: PTH100, PTH103, PTH110, PTH112, PTH117, PTH118, PTH123, PTH208, SIM105, RUF100
# neither pathlib, contextlib nor typing: each import is paid at every start of an agent

from __future__ import annotations

import os
import signal
import sys
import time

from channel import Channel, Refused, Streams, connect
from scripts import Scripts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAGS = {"-webSocket", "-noReconnect", "-noreconnect", "-headless", "-text", "-noCertificateCheck", "-noKeepAlive"}
FLAGS |= {"-disableHttpsCertValidation", "-failIfWorkDirIsMissing"}
VALUES = {"-url", "-secret", "-name", "-workDir", "-internalDir", "-jar-cache", "-agentLog"}
VALUES |= {"-loggingConfig", "-tunnel", "-credentials", "-webSocketHeader", "-cert", "-noReconnectAfter", "-direct"}


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def usage(text: str) -> SystemExit:
    say(text)
    say("java -jar agent.jar -url URL -secret @FILE -name NAME [-webSocket] -workDir DIR [-noReconnect]")
    return SystemExit(255)


def options(args: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    at = 0
    while at < len(args):
        name = args[at]
        if name in FLAGS:
            found[name] = True
        elif name in VALUES and at + 1 < len(args):
            at += 1
            found[name] = args[at]
        else:
            raise usage(f'"{name}" is not a valid option')
        at += 1
    return found


def secret_of(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        with open(text[1:], encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        raise usage(f"{text[1:]}: {error.strerror}") from None


def serve(channel: Channel, scripts: Scripts) -> None:
    """Work until the connection ends."""
    while True:
        for message in channel.receive(scripts.wait_for()):
            if message["op"] == "run":
                scripts.run(message)
            elif message["op"] == "cancel":
                scripts.cancel(message["id"])
        if channel.closed:
            return
        for message in scripts.news():
            channel.send(message)


def over_streams(given: dict[str, Any]) -> int:
    """Launched by the controller: its standard streams are the channel, and it ends with them."""
    work_dir = os.path.abspath(given.get("-workDir", "."))
    os.makedirs(os.path.join(work_dir, given.get("-internalDir", "remoting")), exist_ok=True)
    scripts = Scripts(work_dir)
    channel = Streams()
    channel.send({"op": "ready"})
    try:
        serve(channel, scripts)
    except OSError:
        pass
    scripts.disconnected()
    return 0


def main(args: list[str]) -> int:
    if "-version" in args:
        print("3248.v65ecb_254c298")
        return 0
    given = options(args)
    if "-url" not in given:
        return over_streams(given)
    for needed in ("-url", "-secret", "-name"):
        if needed not in given:
            raise usage(f"{needed} is required")
    work_dir = os.path.abspath(given.get("-workDir", "."))
    try:
        os.makedirs(os.path.join(work_dir, given.get("-internalDir", "remoting")), exist_ok=True)
    except OSError as error:
        raise usage(f"the work folder {work_dir} cannot be made: {error.strerror}") from None
    name, secret = given["-name"], secret_of(given["-secret"])
    web_socket = "-webSocket" in given
    stays = "-noReconnect" not in given and "-noreconnect" not in given
    scripts = Scripts(work_dir)

    def ended(number: int, _frame: object) -> None:
        scripts.end_all()
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, ended)
    signal.signal(signal.SIGINT, ended)
    say(f"INFO: Setting up agent: {name}")
    cookie: str | None = None
    channel: Channel | None
    first = True
    while True:
        try:
            channel = connect(given["-url"], name, secret, cookie, web_socket)
        except Refused as error:
            say(f"SEVERE: {error}")
            if web_socket and (first or error.status in (400, 403)):
                return 255
            if not web_socket and not stays:
                return 0
            channel = None
        except OSError as error:
            say(f"INFO: Failed to connect to {given['-url']}: {error}")
            if not stays:
                return 255 if web_socket else 0
            channel = None
        if channel is None:
            time.sleep(0.5)
            continue
        first = False
        cookie = channel.cookie
        say("INFO: Connected")
        channel.send({"op": "ready"})
        try:
            serve(channel, scripts)
        except OSError:
            pass
        channel.close()
        scripts.disconnected()
        say("INFO: Terminated")
        if not stays:
            return 0
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
