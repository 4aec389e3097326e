"""A report as one HTML page that asks nothing of the network: styles and pictures are inside."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from PIL import Image

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1e; margin: 0 auto; max-width: 1180px;
       padding: 16px; }
h1 { font-size: 26px; } h2 { font-size: 19px; margin-top: 36px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
.wide + .wide { margin-top: 20px; }
@media (max-width: 600px) {
  th:first-child, td:first-child { white-space: normal; min-width: 110px; }
}
figure { margin: 16px 0; } img { max-width: 100%; height: auto; }
figcaption, .note { color: #6e6e73; font-size: 13px; }
"""


@dataclass
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        notes: Paragraphs under the heading.
        tables: Markdown tables, as `markdown_table` writes them.
        pictures: Captions and pictures.
    """

    title: str
    notes: Sequence[str] = ()
    tables: Sequence[str] = ()
    pictures: Sequence[tuple[str, Image.Image]] = field(default_factory=tuple)


def section_of_text(title: str, text: str) -> Section:
    """A section of a text in which lines that begin with `|` are tables."""
    tables: list[list[str]] = []
    notes, inside = [], False
    for line in text.splitlines():
        is_row = line.startswith("|")
        if is_row and not inside:
            tables.append([])
        if is_row:
            tables[-1].append(line)
        elif line:
            notes.append(line)
        inside = is_row
    return Section(title, notes, ["\n".join(table) for table in tables])


def html_page(title: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML text."""
    body = "\n".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def html_table(markdown: str) -> str:
    """A table of `markdown_table` in HTML; a bar with a backslash before it belongs to its cell."""
    heads, _, *rows = [_cells(line) for line in markdown.splitlines()]
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _cells(line: str) -> list[str]:
    parts = re.split(r"(?<!\\)\|", line)[1:-1]
    return [part.strip().replace("\\|", "|") for part in parts]


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    parts += [f'<p class="note">{escape(note)}</p>' for note in section.notes]
    parts += [html_table(table) for table in section.tables]
    for caption, picture in section.pictures:
        source = base64.b64encode(_png(picture)).decode()
        parts.append(
            f'<figure><img alt="{escape(caption)}" width="{picture.width}" '
            f'src="data:image/png;base64,{source}"><figcaption>{escape(caption)}</figcaption>'
            "</figure>"
        )
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()
