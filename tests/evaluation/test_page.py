"""The page of a report: nothing from the network, nothing unescaped, tables as they were."""

import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regionr1.evaluation.markdown import markdown_table
from regionr1.evaluation.page import Section, html_page, html_table, section_of_text


class Reader(HTMLParser):
    """Cells of tables by row, and what else a page holds."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


cells = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="\\"), min_size=1)


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1)
    )
)
def test_a_table_holds_the_cells_it_was_given(rows) -> None:
    assert Reader(html_table(markdown_table(rows[0], rows[1:]))).rows == rows


def test_a_page_asks_nothing_of_the_network_and_escapes() -> None:
    evil = '<script src="http://x/y.js"></script>'
    section = Section(evil, [evil], [markdown_table(["a", evil], [["1", "2"]])],
                      [(evil, Image.new("RGB", (30, 20), (9, 99, 9)))])  # fmt: skip
    read = Reader(html_page(evil, [section]))
    assert "script" not in [tag for tag, _ in read.tags]
    assert read.rows == [["a", evil], ["1", "2"]]
    links = [v for _, attrs in read.tags for k, v in attrs.items() if k in ("src", "href")]
    assert len(links) == 1 and re.match(
        "data:image/png;base64,[A-Za-z0-9+/=]{50,}$", links[0] or ""
    )
    assert "@import" not in html_page("t", []) and "url(" not in html_page("t", [])
    assert (
        "meta",
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
    ) in read.tags


def test_a_text_is_taken_apart() -> None:
    first, second = markdown_table(["a"], [["1"]]), markdown_table(["b"], [])
    section = section_of_text("t", f"Equal.\n\n{first}\na note\n\n{second}\n")
    assert section.tables == [first, second] and section.notes == ["Equal.", "a note"]
