"""Markup that cannot forget to escape: every text becomes markup here and nowhere else."""

from __future__ import annotations

from html import escape

VOID = frozenset({"br", "input", "meta"})


class Html(str):
    """Markup that is safe as it stands. Only `el`, `join` and the fixed texts of the pages make one."""

    __slots__ = ()


Child = str | int | float | Html | None


def text(value: Child) -> Html:
    """Anything as markup; what is no markup yet is escaped."""
    if value is None:
        return Html("")
    return value if isinstance(value, Html) else Html(escape(str(value), quote=True))


def join(*children: Child) -> Html:
    """One after another."""
    return Html("".join(text(child) for child in children))


def el(tag: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """An element. Attributes: `class_` is `class`, other underscores are hyphens; None and False leave one out."""
    given = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value), quote=True)}"')
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in VOID:
        return Html(f"<{tag}{given}>")
    return Html(f"<{tag}{given}>{join(*children)}</{tag}>")
