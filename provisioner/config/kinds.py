"""The closed sets of words that the configuration knows."""

from __future__ import annotations

from enum import StrEnum


class BackendKind(StrEnum):
    """The code for one kind of provider."""

    PROCESS = "process"  # a child process of the sidecar's own machine
    DOCKER = "docker"
    SWARM = "swarm"
    KUBERNETES = "kubernetes"
    LIBVIRT = "libvirt"
    STATIC = "static"  # nodes that are there already, kept clean by `cleanup`


class TransportKind(StrEnum):
    """How the agent connects."""

    WEBSOCKET = "websocket"  # the agent dials the controller's own URL
    TCP = "tcp"  # the agent dials the controller's agent port
    SSH = "ssh"  # the controller dials the instance
    SSH_GATEWAY = "ssh-gateway"  # the controller dials a gateway beside the sidecar


class BridgeChoice(StrEnum):
    """How the bridge may come into the controller."""

    AUTO = "auto"  # the administrator's if it is there, else through the script console, else none
    INIT = "init"  # only the administrator's file in init.groovy.d
    SCRIPT = "script"  # only through the script console
    OFF = "off"  # plain REST


class SshServer(StrEnum):
    """Which SSH server an instance of transport ssh runs."""

    INJECTED = "injected"  # we bring it
    IMAGE = "image"  # the image has OpenSSH's `sshd`


class PullPolicy(StrEnum):
    """When an image is pulled."""

    MISSING = "missing"  # if the provider does not have it
    ALWAYS = "always"
    NEVER = "never"


class JavaSource(StrEnum):
    """Where the agent's Java comes from."""

    IMAGE = "image"  # the image has `java` on its path
    INJECTED = "injected"  # we bring it
