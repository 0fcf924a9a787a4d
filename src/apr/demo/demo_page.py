"""`report.html` of a demo: the curves, the numbers, what the user saw, and how the story is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from apr.demo.summary import table_rows
from apr.reporting.charts import Chart, Level, Line, Mark, loss_lines, run_charts
from apr.reporting.html import Content, Markup, element, figure, join, section, table, terminal
from apr.reporting.page import page
from apr.reporting.run_page import chart_figures, run_sections
from apr.reporting.runs import Run


def demo_page(summary: dict[str, Any], trained: Run, resumed: Run, draw: Callable[[Chart], str]) -> str:
    """The report of a complete demo as one HTML document; `draw` makes an SVG element of a chart."""
    losses = summary["losses"]
    return page(
        "A checkpoint that said it was another model",
        f"A small Qwen2 was trained to a validation loss of {losses['recorded']:.2f}. A copy of its checkpoint, the "
        f"same tensors under a Llama label, loads elsewhere all the same and scores {losses['loaded_as_stamped']:.2f}. "
        f"apr refused it, printed the line that repairs it, and training went on at {losses['resumed_step0']:.2f}.",
        _tiles(losses),
        section(
            "The loss, before and after",
            figure("Validation and training loss of both runs", draw(demo_chart(summary, trained, resumed))),
            element("p", _caption(summary), class_="note"),
        ),
        section("Measured", _numbers(summary)),
        section(
            "The refusal",
            element("p", "What apr pretrain --init answered to the mislabelled copy, before any step:"),
            _terminal(summary["refusal"]),
        ),
        section(
            "The repair",
            element("p", "The stamp command that the refusal printed, run as it stands:"),
            _terminal(summary["stamp"]),
        ),
        section("The loader that goes on", *_loader(summary["loaded_as_stamped"])),
        section("How this story is made", *_making(summary)),
        section("Every claim, checked", _expectations(summary)),
        section("The other curves", *chart_figures(run_charts((trained, resumed))[1:], draw)),
        section("The first run", *run_sections(trained)),
        section("The resumed run", *run_sections(resumed)),
    )


def demo_chart(summary: dict[str, Any], trained: Run, resumed: Run) -> Chart:
    """The loss of both runs one after the other, with the losses that the story is about as levels."""
    losses, rows = summary["losses"], summary["size"]["vocabulary_size"]
    first_step = trained.steps.step[-1] if len(trained.steps) else 0
    lines: list[Line] = [
        *loss_lines(trained, "trained", 0),
        *loss_lines(resumed, "resumed after the repair", 2, first_step=first_step),
    ]
    levels = (
        Level(f"knows nothing: ln({rows:,}) = {losses['uniform']:.2f}", losses["uniform"]),
        Level(f"loaded as it is stamped: {losses['loaded_as_stamped']:.2f}", losses["loaded_as_stamped"], 1),
        Level(f"recorded: {losses['recorded']:.2f}", losses["recorded"]),
    )
    marks = (Mark("mislabelled, refused, repaired", float(first_step)),)
    return Chart("demo-loss", "Loss", "step", "nats per token", tuple(lines), levels, marks)


def _tiles(losses: dict[str, float]) -> Markup:
    tiles = (
        (losses["recorded"], "recorded when the model was saved", "good"),
        (losses["loaded_as_stamped"], "the same tensors, loaded as they are stamped", "bad"),
        (losses["resumed_step0"], "at step 0 after the repair, before any update", "good"),
        (losses["resumed_final"], "after training on from there", "good"),
    )
    return element(
        "div",
        *(
            element(
                "div",
                element("div", f"{loss:.4f}", class_=f"value {css_class}"),
                element("div", label, class_="label"),
            )
            for loss, label, css_class in tiles
        ),
        class_="numbers",
    )


def _caption(summary: dict[str, Any]) -> str:
    text = summary["text"]
    return (
        f"Real text: {text['files']} source files of the Python standard library, {text['tokens']:,} tokens to train "
        f"on, {text['validation_tokens']:,} tokens of other files to validate. Every validation loss in this report is "
        "of the same windows, known by their hash."
    )


def _numbers(summary: dict[str, Any]) -> Markup:
    rows: list[Sequence[Content]] = [list(row) for row in table_rows(summary)]
    return table(["what", "measured", ""], rows, right=["measured"])


def _terminal(command: dict[str, Any]) -> Markup:
    return terminal(f"$ {command['command']}\n{command['text']}\n[exit code {command['exit_code']}]")


def _loader(stamped: dict[str, Any]) -> tuple[Markup, ...]:
    return (
        element(
            "p",
            f"{stamped['loader']} builds {stamped['loaded_as']} from the same file without an error, and leaves "
            f"{len(stamped['unused_tensors'])} of {stamped['stored_tensors']} tensors out. What it logs at its default "
            "verbosity:",
        ),
        terminal(stamped["said"] or "(nothing)"),
    )


def _making(summary: dict[str, Any]) -> tuple[Markup, ...]:
    spreads = ", ".join(f"{name.partition('_')[0]} {spread:g}" for name, spread in summary["bias_spreads"].items())
    paragraphs = (
        "The checkpoint was mislabelled on purpose, in the manner of a real accident: a trainer wrote the class "
        "LlamaForCausalLM into every checkpoint, whatever the model was. Llama and Qwen2 share all names and shapes "
        "but for the q, k and v biases, which a Llama never asks for. So the model runs, without them.",
        "A fresh Qwen2 starts these biases at zero, and minutes of training would leave them near it; pretrained "
        "Qwen2.5 models carry large ones. The demo draws them from normal distributions before the first step "
        f"(standard deviations {spreads}), so that losing them costs what it cost then: something, and not everything.",
        "The copy is in the state of the founding file: dimensions and a false class, no licence, no hf_architecture, "
        "no tokenizer. That is why its quality goes from 40 to 60 points. A checkpoint as apr pretrain writes it "
        "carries its tokenizer and would score higher; the resumed run is given the tokenizer by --tokenizer.",
        "The load as stamped is from_pretrained of the same tensors with the same false config, measured with the same "
        "function on the same windows. The resumed run has a fresh optimizer and another order of the data.",
    )
    return tuple(element("p", paragraph) for paragraph in paragraphs)


def _expectations(summary: dict[str, Any]) -> Markup:
    rows = [
        [
            element("span", each["claim"], class_="claim"),
            element("span", *(("holds",) if each["holds"] else ("fails",)), class_=_mark(each["holds"])),
            join(
                (
                    element("code", each["found"]),
                    element("div", "expected: ", element("code", each["expected"]), class_="note"),
                )
            ),
        ]
        for each in summary["expectations"]
    ]
    return table(["claim", "", "found"], rows)


def _mark(holds: bool) -> str:
    return "mark good" if holds else "mark bad"
