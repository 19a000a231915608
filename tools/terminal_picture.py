"""A terminal recording as an SVG picture: `script -qec 'make demo' FILE`, then this program on FILE.

    python tools/terminal_picture.py FILE --from '── broken' > docs/demo.svg

Plain text with a few colours: no fonts, scripts or links.
"""

from __future__ import annotations

import argparse
import re
import sys
from html import escape
from pathlib import Path

COLOURS = {"31": "#f47067", "32": "#57ab5a", "33": "#c69026", "36": "#39c5cf", "2": "#768390", "1": "#ffffff"}
#: spaces fall together in SVG text
NBSP = "\u00a0"
PLAIN = "#cdd9e5"
WIDTH, HEIGHT, PAD = 7.85, 17, 14
_STYLE = re.compile(r"\x1b\[([0-9;]*)m")
_OTHER = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]|\x1b[()][A-Z0-9]|[\x00-\x08\x0b-\x1a\x1c-\x1f]")


def lines_of(recording: str) -> list[str]:
    """What stood in each line at the end; a progress line that was overwritten is gone."""
    found = []
    for line in recording.split("\n"):
        shown = [part for part in line.rstrip("\r").split("\r") if _STYLE.sub("", _OTHER.sub("", part)).strip()]
        found.append(_OTHER.sub("", shown[-1]) if shown else "")
    return [line for line in found if not line.startswith(("Script started", "Script done"))]


def cut(line: str, width: int) -> str:
    """The line up to a column; colours take no room."""
    kept, room = [], width
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        if not piece.startswith("\x1b"):
            piece, room = piece[:room], room - len(piece[:room])  # noqa: PLW2901  (cut where it stands)
        kept.append(piece)
    return "".join(kept)


def spans(line: str) -> str:
    """One line as coloured pieces."""
    colour, parts, at = PLAIN, [], 0
    for match in [*_STYLE.finditer(line), None]:
        text = line[at : match.start() if match else len(line)]
        if text:
            parts.append(f'<tspan fill="{colour}">{escape(text).replace(" ", NBSP)}</tspan>')
        if match is None:
            break
        codes = [code for code in match[1].split(";") if code in COLOURS]
        colour = COLOURS[codes[-1]] if codes else PLAIN
        at = match.end()
    return "".join(parts)


def picture(lines: list[str]) -> str:
    """The whole picture."""
    columns = max((len(_STYLE.sub("", line)) for line in lines), default=0)
    wide, high = round(columns * WIDTH + 2 * PAD), len(lines) * HEIGHT + 2 * PAD
    rows = "\n".join(
        f'<text x="{PAD}" y="{PAD + 13 + n * HEIGHT}">{spans(line)}</text>' for n, line in enumerate(lines) if line
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#22272e"/>\n'
        f'<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="13">'
        f"\n{rows}\n</g>\n</svg>\n"
    )


def main() -> int:
    """Print the picture of a recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--from", dest="first", default="", help="begin with the first line that holds this text")
    parser.add_argument("--width", type=int, default=118, help="cut lines at this column")
    options = parser.parse_args()
    lines = lines_of(options.recording.read_text(errors="replace"))
    begin = next((n for n, line in enumerate(lines) if options.first in line), 0)
    sys.stdout.write(picture([cut(line, options.width) for line in lines[begin:]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
