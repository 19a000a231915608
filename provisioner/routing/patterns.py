"""The two kinds of pattern in a template: `jobs` (globs on full names) and `labels` with place holders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_PLACE_HOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

#: Longer labels fit no place holder; it keeps the search short, and no image's name is as long.
MAX_BOUND_CHARACTERS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class JobGlobs:
    """Which jobs a template serves, by full name.

    `*` and `?` stay within one segment; `**` as a whole segment spans any number of them: `team-a/**` is
    every job below the folder, `**/deploy` every job of that name. Case counts.
    """

    globs: tuple[str, ...]
    _regexes: tuple[re.Pattern[str], ...] = field(repr=False, compare=False)

    @classmethod
    def of(cls, globs: Iterable[str]) -> JobGlobs:
        """Read the globs; none at all, or `**` among them, serves every job."""
        given = tuple(globs)
        return cls(globs=given, _regexes=() if "**" in given else tuple(map(_glob, given)))

    @property
    def open(self) -> bool:
        """Whether every job fits."""
        return not self._regexes

    def fit(self, job: str) -> bool:
        """Whether one of them fits the job's full name."""
        return self.open or any(regex.fullmatch(job) for regex in self._regexes)


def _glob(glob: str) -> re.Pattern[str]:
    segments = re.sub(r"(^|/)\*\*(/\*\*)+(?=/|$)", r"\1**", glob).split("/")
    parts = []
    for place, segment in enumerate(segments, start=1):
        last = place == len(segments)
        if segment == "**":
            parts.append(".+" if last else "(?:[^/]+/)*")
        else:
            wild = "".join(
                {"*": "[^/]*", "?": "[^/]"}.get(piece[0], re.escape(piece))
                for piece in re.findall(r"\*+|\?|[^*?]+", segment)
            )
            parts.append(wild if last else wild + "/")
    return re.compile("".join(parts), re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPattern:
    """A template's label with place holders, such as `image={image}`."""

    label: str
    _regex: re.Pattern[str] = field(repr=False, compare=False)

    @classmethod
    def of(cls, label: str) -> LabelPattern | None:
        """Read a template's label; None if it has no place holder and is just a label."""
        names: set[str] = set()
        parts = []
        end = 0
        for holder in _PLACE_HOLDER.finditer(label):
            name = holder[1]
            parts.append(re.escape(label[end : holder.start()]))
            parts.append(f"(?P={name})" if name in names else f"(?P<{name}>.+?)")
            names.add(name)
            end = holder.end()
        if not names:
            return None
        parts.append(re.escape(label[end:]))
        return cls(label=label, _regex=re.compile("".join(parts), re.DOTALL))

    def bind(self, atom: str) -> Mapping[str, str] | None:
        """What the place holders stand for if the label is this atom; None if it cannot be.

        Several place holders in one label each take as little as they can, from the left.
        """
        if len(atom) > MAX_BOUND_CHARACTERS or (found := self._regex.fullmatch(atom)) is None:
            return None
        return found.groupdict()
