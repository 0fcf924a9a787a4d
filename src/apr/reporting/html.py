"""HTML put together from parts, every text escaped: only `Markup` goes in as it is, and only this package makes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from apr.errors import escape_control
from apr.reporting.terminal import text_column


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | int | float | Markup | None


def text(value: Content) -> Markup:
    """`value` as HTML: markup as it is, everything else escaped, control characters visible, None as a dash."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup("–")
    lines = str(value).split("\n")
    return Markup(escape("\n".join(escape_control(line) for line in lines), quote=True))


def element(tag: str, *children: Content, **attributes: str) -> Markup:
    """`<tag attributes>children</tag>`; `class_` is written as `class`."""
    words = [tag, *(f'{name.rstrip("_")}="{escape(value, quote=True)}"' for name, value in attributes.items())]
    return Markup(f"<{' '.join(words)}>{join(children)}</{tag}>")


def join(parts: Iterable[Content], separator: str = "") -> Markup:
    """The parts one after the other."""
    return Markup(separator.join(text(part) for part in parts))


def section(title: str, *children: Content, identifier: str | None = None) -> Markup:
    """A section under a heading."""
    attributes = {} if identifier is None else {"id": identifier}
    return element("section", element("h2", title), *children, **attributes)


def pairs(rows: Iterable[tuple[str, Content]]) -> Markup:
    """Labels and values as a definition list."""
    return element(
        "dl", *(element("div", element("dt", label), element("dd", value)) for label, value in rows), class_="pairs"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[Content]], *, right: Iterable[str] = ()) -> Markup:
    """A table that scrolls sideways where it does not fit; columns named in `right` are numbers."""
    to_right = {index for index, name in enumerate(columns) if name in set(right)}

    def row(cells: Sequence[Content], tag: str) -> Markup:
        return element(
            "tr",
            *(
                element(tag, cell, **({"class_": "number"} if index in to_right else {}))
                for index, cell in enumerate(cells)
            ),
        )

    head = element("thead", row(columns, "th"))
    body = element("tbody", *(row(cells, "td") for cells in rows))
    return element("div", element("table", head, body), class_="scroll")


def folded(summary: Content, *children: Content) -> Markup:
    """Content behind a line that opens it."""
    return element("details", element("summary", summary), *children)


def terminal(printed: str) -> Markup:
    """Printed text as on a terminal; a line too long for the page goes on below where its text begins."""
    lines = []
    for line in printed.split("\n"):
        column = text_column(line)
        lines.append(element("div", line or " ", style=f"padding-left:{column}ch;text-indent:-{column}ch"))
    return element("pre", *lines, class_="terminal")


def figure(title: str, drawing: str, caption: Content = None) -> Markup:
    """A drawing (an SVG element made by `drawing.chart_svg`) with its title and a caption."""
    below = () if caption is None else (element("figcaption", caption),)
    return element("figure", element("h3", title), Markup(drawing), *below, role="group")
