"""The page around a report: one HTML file that needs nothing from the net, in light or dark as the reader prefers."""

from __future__ import annotations

from importlib.resources import files

from apr import __version__
from apr.reporting.html import Content, Markup, element, join, text
from apr.reporting.palette import style_variables

# The page may load nothing and run nothing, also when a text in it were not what it seems.
CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, lead: Content, *sections: Content) -> str:
    """A whole HTML document with `title`, one sentence under it, and `sections`."""
    style = style_variables() + (files("apr.reporting") / "page.css").read_text(encoding="utf-8")
    head = join(
        (
            Markup('<meta charset="utf-8">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{text(CONTENT_POLICY)}">'),
            element("title", title),
            Markup(f"<style>\n{style}</style>"),
        ),
        "\n",
    )
    body = element(
        "body",
        element("header", element("h1", title), element("p", lead, class_="lead")),
        element("main", *sections),
        element("footer", f"Written by apr {__version__}. Losses are mean next-token cross-entropy in nats per token."),
    )
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n{body}\n</html>\n'
