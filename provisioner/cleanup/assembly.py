"""From settings to a scheduler."""

from __future__ import annotations

from provisioner.cleanup.facts import Policy
from provisioner.cleanup.scheduler import Scheduler
from provisioner.config import Cleanup, Settings
from provisioner.controller.rest import Rest
from provisioner.model.errors import ConfigError


def make_scheduler(settings: Settings) -> Scheduler:
    """The scheduler that the configuration asks for.

    Raises:
        ConfigError: it asks for none, or the token is missing.
    """
    wanted = settings.cleanup
    if wanted is None:
        raise ConfigError("the configuration has no `cleanup:`; docs/cleanup.md shows one")
    script = settings.controller(wanted.controller).bridge.value in {"auto", "script"}
    return Scheduler(make_http(settings), job=wanted.job, policy=make_policy(wanted), script=script)


def make_http(settings: Settings) -> Rest:
    """The controller whose nodes are looked after.

    Raises:
        ConfigError: the token is missing.
    """
    if settings.cleanup is None:
        raise ConfigError("the configuration has no `cleanup:`; docs/cleanup.md shows one")
    return Rest.of(settings.controller(settings.cleanup.controller))


def make_policy(wanted: Cleanup) -> Policy:
    """What the configuration says, in the words of the decision."""
    return Policy(
        cleanable=wanted.labels.cleanable,
        dirty=wanted.labels.dirty,
        clean=wanted.labels.clean,
        dirty_timeout_s=wanted.dirty_timeout_s,
        at_once=wanted.at_once,
        skip=frozenset(wanted.skip),
        retries=wanted.retries,
        retry_after_s=wanted.retry_after_s,
        after_builds=wanted.after.builds,
        after_age_s=wanted.after.age_s,
        disk_below=wanted.after.disk_below,
    )
