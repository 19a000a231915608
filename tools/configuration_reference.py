"""docs/configuration.md, written from the schema of the configuration.

python tools/configuration_reference.py            write the page
python tools/configuration_reference.py --check    exit 1 if the page is not what the schema says now

Nothing in the page is written by hand but its head, below.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from provisioner.config import durations, json_schema, sizes
from provisioner.config.not_yet import ROWS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

HEAD = """\
# Configuration

One YAML file, named by `-c FILE`, else by `$PROVISIONER_CONFIG`, else `provisioner.yaml`. A complete one:
[sample/provisioner.yaml](sample/provisioner.yaml).

- `provisioner check -c FILE` prints every mistake with file, line and key, and what would be right. It changes nothing.
- `provisioner schema` prints the JSON Schema of the file, for editors.
- SIGHUP reads the file again. A bad file leaves the old configuration in force and says so in the log. `id`, `state`,
  `http`, `controllers`, `registries`, `gateway`, changes of providers (but for `max_agents`; a new one needs none),
  `cleanup` (but for its `interval`) where a provider has the backend `static`, and parameters under `overrides` that no
  template named before need a restart. Agents keep the template that they started with.
- An unknown key is an error, and so is a key that this release knows and does not do yet (marked *not yet*).
- A **duration** is seconds or `90s`, `30m`, `4h`, `2d`; in the tables, in seconds. A **size** is bytes or `512m`, `4g`.
- A **secret** is never in the file: `{env: VARIABLE}` or `{file: PATH}`.

<!-- Made by tools/configuration_reference.py from the schema; change the descriptions in provisioner/config/. -->
"""


class Reference:
    """The tables of one schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema

    def page(self) -> str:
        """The whole page."""
        return HEAD + "".join(self._section("", self._schema))

    def _section(self, at: str, node: Mapping[str, Any]) -> Iterator[str]:
        """The table of one mapping, then those of the mappings in it."""
        title = f"`{at}`" if at else "Top level"
        yield f"\n## {title}\n\n| key | value | default | |\n|---|---|---|---|\n"
        required = node.get("required", ())
        inner: list[tuple[str, Mapping[str, Any]]] = []
        for key, value in node["properties"].items():
            path = f"{at}.{key}" if at else key
            for place, part in self._parts(path, value):
                if self._title(part) != "SecretRef":
                    inner.append((place, part))
            default = "**required**" if key in required else self._default(value)
            note = ". ".join(filter(None, (_escaped(value["description"]), self._not_yet(path, value))))
            yield f"| `{key}` | {self._words(path, value)} | {default} | {note} |\n"
        for place, part in inner:
            yield from self._section(place, part)

    def _resolved(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        reference = node.get("$ref")
        found: Mapping[str, Any] = self._schema["$defs"][reference.rpartition("/")[2]] if reference else node
        return found

    def _title(self, node: Mapping[str, Any]) -> str:
        return str(node.get("title", ""))

    def _alternatives(self, node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """What a value may be, without nothing."""
        choices = node.get("anyOf") or node.get("oneOf")
        if choices is None:
            return [self._resolved(node)]
        return [found for choice in choices if choice.get("type") != "null" for found in self._alternatives(choice)]

    def _parts(self, path: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The mappings with keys of their own below a key."""
        for found in self._alternatives(node):
            if "items" in found:
                yield from self._parts(f"{path}[]", found["items"])
            elif "properties" in found:
                yield path, found

    def _words(self, path: str, node: Mapping[str, Any]) -> str:
        """What a value may be, in words."""
        found = self._alternatives(node)
        patterns = [choice.get("pattern") for choice in found]
        if durations.PATTERN in patterns:
            return "duration"
        if sizes.PATTERN in patterns:
            return "size"
        return " or ".join(dict.fromkeys(self._word(path, choice) for choice in found))

    def _word(self, path: str, node: Mapping[str, Any]) -> str:
        if "enum" in node:
            return ", ".join(f"`{word}`" for word in node["enum"])
        if "const" in node:
            return f"`{node['const']}`"
        if "items" in node:
            (inner,) = self._alternatives(node["items"])[:1]
            return f"list of [mappings]({_anchor(path + '[]')})" if "properties" in inner else "list of texts"
        if "properties" in node:
            return "secret" if self._title(node) == "SecretRef" else f"[mapping]({_anchor(path)})"
        kind = node.get("type")
        kinds = {"object": "mapping", "integer": "whole number", "number": "number", "boolean": "true or false"}
        return kinds.get(str(kind), "text")

    def _default(self, node: Mapping[str, Any]) -> str:
        value = node.get("default")
        if value is None or value in ([], {}):
            return ""
        if isinstance(value, bool):
            return f"`{str(value).lower()}`"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return f"`{', '.join(value)}`" if isinstance(value, list) else f"`{value}`"

    def _not_yet(self, path: str, node: Mapping[str, Any]) -> str:
        """What this release does not do with a key."""
        told = []
        for row in ROWS:
            if row.path not in (path, f"{path}[]"):
                continue
            words = [word for choice in self._alternatives(node) for word in choice.get("enum", ())]
            refused = [f"`{word}`" for word in words if row.when(word)]
            if refused:
                told.append(f"*Not yet: {', '.join(refused)}.*")
            elif not words and any(row.when(value) for value in ("x", 1, ["x"])):
                told.append("*Not yet.*")
            else:
                told.append(f"*Not yet in every form; {row.instead}.*")
        return " ".join(told)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("**", "`**`").replace("with * and", "with `*` and")


def _anchor(path: str) -> str:
    """As GitHub makes it from a heading: letters, digits, - and _ stay."""
    return "#" + "".join(c for c in path.lower() if c.isalnum() or c in "-_")


def main() -> int:
    text = Reference(json_schema()).page()
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text() != text:
            print(f"{PAGE.name} is old; run python tools/configuration_reference.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
