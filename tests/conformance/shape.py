"""Whether an answer has the shape of a recorded one. Pure."""

from __future__ import annotations

from typing import Any

#: Compared by value wherever both sides have them; all else by type alone.
VALUES = frozenset(
    {
        "_class",
        "blocked",
        "buildable",
        "building",
        "cancelled",
        "concurrentBuild",
        "inQueue",
        "labelExpression",
        "mode",
        "nodeName",
        "offline",
        "offlineCauseReason",
        "params",
        "pending",
        "quietingDown",
        "result",
        "stuck",
        "temporarilyOffline",
        "type",
        "useCrumbs",
        "useSecurity",
        "why",
        "jnlpAgent",
        "launchSupported",
        "shortDescription",
        "typeName",
        "value",
        "builtOn",
        "anonymous",
        "authenticated",
        "description",
    }
)


def differences(recorded: Any, found: Any, at: str = "$") -> list[str]:
    """What is other than recorded; null stands for anything, as it does in the API."""
    if recorded is None or found is None:
        return []
    if isinstance(recorded, dict) and isinstance(found, dict):
        return _objects(recorded, found, at)
    if isinstance(recorded, list) and isinstance(found, list):
        return _lists(recorded, found, at)
    if type(recorded) is not type(found):
        return [f"{at}: recorded {type(recorded).__name__}, found {type(found).__name__} {str(found)[:80]}"]
    return []


def _objects(recorded: dict[str, Any], found: dict[str, Any], at: str) -> list[str]:
    out = [f"{at}: {key} is missing" for key in recorded if key not in found]
    out += [f"{at}: {key} is not recorded" for key in found if key not in recorded]
    for key in recorded.keys() & found.keys():
        one, other = recorded[key], found[key]
        scalar = not isinstance(one, dict | list) and not isinstance(other, dict | list)
        if key in VALUES and scalar and one != other and None not in (one, other):
            out.append(f"{at}.{key}: recorded {one!r}, found {other!r}")
        else:
            out += differences(one, other, f"{at}.{key}")
    return out


def _lists(recorded: list[Any], found: list[Any], at: str) -> list[str]:
    """Each member must be like one of the recorded members."""
    if not recorded:
        return []
    out = []
    for index, member in enumerate(found):
        tries = [differences(one, member, f"{at}[{index}]") for one in recorded]
        if all(tries):
            least: list[str] = min(tries, key=len)
            out += least
    return out
