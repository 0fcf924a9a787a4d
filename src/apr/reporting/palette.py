"""The colors of reports: the same names in light and in dark, told apart also by people who see few colors."""

from __future__ import annotations

# Name: (light, dark). Series colors differ in lightness as well as in hue.
COLORS: dict[str, tuple[str, str]] = {
    "paper": ("#fcfcfa", "#16181c"),
    "panel": ("#ffffff", "#1d2026"),
    "ink": ("#1f2328", "#e4e6ea"),
    "muted": ("#646b76", "#9aa2af"),
    "line": ("#e3e4e1", "#32363e"),
    "good": ("#1c6e44", "#62c48f"),
    "bad": ("#b3261e", "#ff8a80"),
    "open": ("#8a5a00", "#e0b04a"),
    "series-1": ("#1f5fa8", "#72aef2"),
    "series-2": ("#c25a12", "#f5a25d"),
    "series-3": ("#2c7a4b", "#6fcb95"),
    "series-4": ("#7b4a9e", "#c39be6"),
    "series-5": ("#0f7f86", "#5fc9cf"),
    "series-6": ("#8b6914", "#d9bd6a"),
}
SERIES_COUNT = 6


def series_name(index: int) -> str:
    """The color name of series `index`, counted from 0; colors come again after the last."""
    return f"series-{index % SERIES_COUNT + 1}"


def light(name: str) -> str:
    """The color `name` on light paper, as `#rrggbb`."""
    return COLORS[name][0]


def style_variables() -> str:
    """CSS that defines every color as a variable, `--ink` and so on, and its dark value where dark is preferred."""

    def block(index: int) -> str:
        return "".join(f"--{name}:{values[index]};" for name, values in COLORS.items())

    return (
        f":root{{color-scheme:light dark;{block(0)}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{block(1)}}}}}\n"
        f"@media print{{:root{{{block(0)}}}}}\n"
    )
