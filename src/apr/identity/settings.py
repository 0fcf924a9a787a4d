"""Choosing the config flags under which an architecture's templates suit a file's tensors best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from apr.identity.entries import Entry, Template, common_word, literal_holds
from apr.identity.names import Group

_MOST_SETTINGS = 1 << 12
Settings = Mapping[str, Any]


class SeenTemplate(NamedTuple):
    """A template and the file tensors that bear its name, None when there are none."""

    template: Template
    group: Group | None

    @property
    def is_wrong(self) -> bool:
        """Whether its tensors are wanted and absent, or have another number of dimensions than it wants (not told where
        their shapes differ)."""
        template, group = self.template, self.group
        if group is None:
            return not may_be_absent(template)
        if group.shape is None or template.is_loose or template.is_optional:
            return False
        return len(group.shape) != len(template.dims)


def choose_settings(
    entry: Entry, seen: Sequence[SeenTemplate], recorded: Mapping[str, Any]
) -> tuple[dict[str, Any], list[SeenTemplate]]:
    """Flags that leave no template over on either side, and the templates they choose.

    Among equals a stored head counts as untied, then recorded flags and class defaults are preferred. When no flags
    explain the file, the recorded or default ones stand (only ties follow the tensors): so the leftovers are those
    of loading the file as that architecture.
    """
    choices = _choices(entry, seen, recorded)
    best = min(_judged(choices, seen), key=lambda judged: judged[:3], default=None)
    if best is None:
        return {}, list(seen)
    if best[0] > 0:
        ties = {name for each in seen if each.template.tied_to for terms in each.template.when for name, _ in terms}
        kept = {name: values if name in ties else values[:1] for name, values in choices.items()}
        best = min(_judged(kept, seen), key=lambda judged: judged[:3])
    return best[3], [each for each in seen if _holds(each.template, best[3])]


def _judged(
    choices: Mapping[str, Sequence[Any]], seen: Sequence[SeenTemplate]
) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
    """Every setting with (templates left over, stored ties, flags changed from the preferred value)."""
    # Most templates hold in every setting: they are counted once.
    always = [each for each in seen if not each.template.when]
    others = [(each, each.is_wrong) for each in seen if each.template.when]
    always_wrong = sum(each.is_wrong for each in always)
    open_patterns = {each.template.pattern for each, _ in others if each.group is not None}
    open_patterns -= {each.template.pattern for each in always}
    always_tied = sum(each.group is not None for each in always if each.template.tied_to is not None)
    for count, setting in enumerate(product(*choices.values())):
        if count >= _MOST_SETTINGS:
            return
        fields = dict(zip(choices, setting, strict=True))
        chosen = [(each, is_wrong) for each, is_wrong in others if _holds(each.template, fields)]
        wrong = always_wrong + sum(is_wrong for _, is_wrong in chosen)
        unused = len(open_patterns - {each.template.pattern for each, _ in chosen})
        stored_ties = always_tied + sum(
            each.group is not None for each, _ in chosen if each.template.tied_to is not None
        )
        changes = sum(value != values[0] for value, values in zip(setting, choices.values(), strict=True))
        yield wrong + unused, stored_ties, changes, fields
        if wrong + unused + stored_ties + changes == 0:
            return


def may_be_absent(template: Template) -> bool:
    """Whether a file of the architecture may lack the template's tensors."""
    return template.is_optional or template.tied_to is not None


def _choices(entry: Entry, seen: Sequence[SeenTemplate], recorded: Mapping[str, Any]) -> dict[str, list[Any]]:
    """For each flag that decides about a tensor: its possible values, the preferred one first."""
    choices: dict[str, list[Any]] = {}
    for each in seen:
        for terms in each.template.when:
            for name, value in terms:
                values = choices.setdefault(name, [_preferred(entry, name, value, recorded)])
                values += [other for other in (value, _other(value)) if other not in values]
    return choices


def _preferred(entry: Entry, name: str, value: Any, recorded: Mapping[str, Any]) -> Any:
    if "==" in name:
        return False
    preferred = common_word(entry, name, recorded.get(name, entry.defaults.get(name)))
    if value in (None, "set"):
        return None if preferred is None else "set"
    return bool(preferred) if isinstance(value, bool) else preferred


def _other(value: Any) -> Any:
    if value == "set":
        return None
    if value is None:
        return "set"
    return not value if isinstance(value, bool) else value


def _holds(template: Template, fields: Settings) -> bool:
    """`condition_holds` where equalities of two fields are chosen like flags."""
    return not template.when or any(
        all(fields[name] == value if "==" in name else literal_holds(fields.get(name), value) for name, value in terms)
        for terms in template.when
    )
