"""Times, states and bars as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from provisioner.model.agent import AgentState
from provisioner.web.html import Html, el, join, text

_TONES: Mapping[str, str] = {
    "planned": "quiet",
    "registering": "quiet",
    "starting": "info",
    "connecting": "info",
    "idle": "info",
    "running": "ok",
    "finished": "warn",
    "removing": "warn",
    "waiting": "warn",
    "served": "ok",
    "failing": "bad",
    "open": "ok",
    "draining": "warn",
    "cooling_down": "warn",
    "unreachable": "bad",
    "probing": "warn",
    "held": "warn",
}

PHASES = tuple(state.value for state in AgentState if state is not AgentState.REMOVED)


def duration(seconds: float) -> str:
    """`0.42 s`, `42 s`, `3 min 20 s`, `5 h 2 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = int(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def badge(state: str, words: str | None = None) -> Html:
    """A state in its colour."""
    return el("span", words or state.replace("_", " "), class_=f"badge {_TONES.get(state, 'quiet')}")


def dot(words: str, tone: str) -> Html:
    """Something that is fine, or not."""
    return join(el("span", class_=f"dot {tone}"), words)


def capacity_bar(used: int, most: int) -> Html:
    """How full something is."""
    width = min(100.0, 100.0 * used / max(1, most))
    full = " full" if used >= most else ""
    return el(
        "svg",
        el("title", f"{used} of {most}"),
        el("rect", width=f"{width:.1f}", height=10, class_=f"fill{full}"),
        class_="bar",
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        role="img",
    )


def phase_bar(phases: Sequence[tuple[str, float]]) -> Html:
    """The phases side by side, as long as they took; each shows at least a little."""
    total = sum(seconds for _, seconds in phases) or 1.0
    shares = [max(1.5, 100 * seconds / total) for _, seconds in phases]
    scale = 100 / max(1.0, sum(shares))
    bars, x = [], 0.0
    for (state, _), share in zip(phases, shares, strict=True):
        width = share * scale
        bars.append(el("rect", x=f"{x:.2f}", width=f"{width:.2f}", height=10, class_=state))
        x += width
    told = ", ".join(f"{state} {duration(seconds)}" for state, seconds in phases)
    return el(
        "svg",
        el("title", told),
        *bars,
        class_="bar slim",
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        role="img",
    )


def legend() -> Html:
    """Which colour is which phase."""
    return el(
        "div",
        *(
            el("span", el("svg", el("rect", width=10, height=10, class_=state), viewBox="0 0 10 10"), state)
            for state in PHASES
        ),
        class_="legend",
    )


def table(heads: Sequence[str], rows: Sequence[Html]) -> Html:
    """A table; a head that begins with `#` stands over numbers. On a narrow screen each cell has its head beside it."""
    words = [head.lstrip("#") for head in heads]
    cells = [
        el("th", word, class_="num" if head.startswith("#") else None) for head, word in zip(heads, words, strict=True)
    ]
    return el("table", el("thead", el("tr", *cells)), el("tbody", *(_labelled(row, words) for row in rows)))


def _labelled(row: Html, heads: Sequence[str]) -> Html:
    """A row whose cells know their heads. Texts are escaped: a `<td` in markup is the begin of a cell."""
    first, *cells = row.split("<td")
    labelled = [f'<td data-head="{text(head)}"{cell}' for head, cell in zip(heads, cells, strict=True)]
    return Html(first + "".join(labelled))
