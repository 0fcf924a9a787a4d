"""Read off llama.cpp's sources which tensors its loader wants for each architecture, and write `tools/gguf_loader.json`.

    python tools/read_gguf_loader.py DIRECTORY_OF_LLAMA_CPP "llama.cpp of ..." [--out FILE]

gguf's lists say which tensors can exist; what must exist, under which shapes, only the loader says. It is regular enough
to be read without compiling: `create_tensor(tn(NAME, "suffix", layer), {dimensions}, flags)` under plain conditions.
The output is facts only (names, shapes, presence, required keys, kind of rotation, class names of the converter), from
which `tools/build_gguf_atlas.py` makes the shipped data. What is not understood becomes `?`, never a guess.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from gguf_loader_words import CONDITIONS, FIELDS, SAME_LOADER, Condition

OUT = Path(__file__).parent / "gguf_loader.json"
Row = dict[str, Any]

_NEXTN = "i >= n_layer"
"""Layers for the prediction of further tokens, which stand behind the others."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("source", help="what the sources are, for the record")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    found = read_loader(arguments.directory)
    lines = [f"{json.dumps(slug)}: {json.dumps(facts, sort_keys=True)}" for slug, facts in sorted(found.items())]
    head = json.dumps(arguments.source)
    arguments.out.write_text(f'{{"source": {head}, "architectures": {{\n' + ",\n".join(lines) + "\n}}\n")
    print(f"{len(found)} architectures")


def read_loader(directory: Path) -> dict[str, Any]:
    """Facts by architecture, for those that the installed gguf knows."""
    from gguf.constants import MODEL_ARCH_NAMES

    sources = directory / "src"
    names = (sources / "llama-arch.cpp").read_text()
    tensor_names = dict(re.findall(r'\{\s*(LLM_TENSOR_\w+),\s*"([^"]+)"\s*\}', names))
    key_names = dict(re.findall(r'\{\s*(LLM_KV_\w+),\s*"%s\.([^"]+)"\s*\}', names))
    slugs = dict(re.findall(r'\{\s*(LLM_ARCH_\w+),\s*"([^"]+)"\s*\}', names))
    model = (sources / "llama-model.cpp").read_text()
    rope = _rope_kinds(model)
    bodies = _bodies(sources / "models")
    classes = converter_classes(directory / "conversion")
    found = {}
    for member, loader in _loaders(model).items():
        slug = slugs.get(member)
        if slug not in MODEL_ARCH_NAMES.values():
            continue
        tensors, settings = (
            bodies.get((loader, kind)) or bodies.get((SAME_LOADER.get(loader, ""), kind))
            for kind in ("tensors", "hparams")
        )
        found[slug] = {
            "tensors": [] if tensors is None else _Reader(tensors, slug, tensor_names).rows(),
            "keys": _required_keys(settings or "", key_names),
            "rope": rope.get(member),
            "classes": classes.get(slug, []),
        }
    return found


def _loaders(model: str) -> dict[str, str]:
    """Enumerator of an architecture to the class that loads it."""
    found, pending = {}, []
    for line in model.partition("llama_model_rope_type")[0].splitlines():
        if case := re.match(r"\s*case (LLM_ARCH_\w+):", line):
            pending.append(case[1])
        elif made := re.match(r"\s*return new (llama_model_\w+)\(", line):
            found.update(dict.fromkeys(pending, made[1]))
            pending = []
    return found


def _bodies(models: Path) -> dict[tuple[str, str], str]:
    found = {}
    for file in sorted(models.glob("*.cpp")):
        text = _without_comments(file.read_text())
        for start in re.finditer(r"void (llama_model_\w+)::load_arch_(tensors|hparams)\([^)]*\)\s*\{", text):
            found[start[1], start[2]] = text[start.end() : _closing(text, start.end() - 1)]
    return found


def _without_comments(text: str) -> str:
    """The text without comments, and without texts in quotes that could upset the counting of brackets."""

    def kept(part: re.Match[str]) -> str:
        is_name = part[0].startswith('"') and not re.search(r"[(){}\[\]]", part[0])
        return part[0] if is_name else ""

    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)\'', kept, text, flags=re.DOTALL)


def _closing(text: str, at: int) -> int:
    """Where the bracket that opens at `at` is closed."""
    depth = 0
    for place in range(at, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0:
            return place
    raise ValueError("a bracket is not closed")


def _rope_kinds(model: str) -> dict[str, str]:
    """Enumerator to `none`, `norm` (pairs of neighbours), `neox` (halves), or `mrope`; absent where it is computed."""
    text = model[model.index("llama_rope_type llama_model_rope_type(") :]
    found, pending = {}, []
    for line in text[: text.index("\n}")].splitlines():
        if case := re.match(r"\s*case (LLM_ARCH_\w+):", line):
            pending.append(case[1])
        elif given := re.match(r"\s*return LLAMA_ROPE_TYPE_(\w+);", line):
            found.update(dict.fromkeys(pending, given[1].lower()))
            pending = []
        elif "return" in line:
            pending = []
    return found


def _required_keys(body: str, names: dict[str, str]) -> list[str]:
    """Keys that the loader does not go on without; those asked for under a condition are left out."""
    keys = []
    depth = 0
    for line in body.splitlines():
        if depth == 0 and (asked := re.match(r"\s*ml\.get_key\((LLM_KV_\w+),\s*[^,;]+\);", line)):
            keys.append(names.get(asked[1], ""))
        depth += line.count("{") - line.count("}")
    return [key for key in dict.fromkeys(keys) if key]


class _Reader:
    """Walks over the statements of one loader; conditions are those of the enclosing blocks."""

    def __init__(self, body: str, slug: str, names: dict[str, str]) -> None:
        self._text = body
        self._at = 0
        self._slug = slug
        self._names = names
        self._locals: dict[str, str] = {}
        self._found: list[Row] = []

    def rows(self) -> list[Row]:
        while self._skip_space() < len(self._text):
            self._statement(())
        return [row for at, row in enumerate(self._found) if row not in self._found[:at]]

    def _skip_space(self) -> int:
        while self._at < len(self._text) and self._text[self._at] in " \t\n;":
            self._at += 1
        return self._at

    def _statement(self, conditions: tuple[str, ...]) -> None:
        at = self._skip_space()
        text = self._text
        if text[at] == "{":
            self._block(conditions)
        elif (start := re.compile(r"(if|for|while|switch)\s*\(").match(text, at)) is not None:
            end = _closing(text, start.end() - 1)
            self._at = end + 1
            inner = " ".join(text[start.end() : end].split())
            is_behind = start[1] == "for" and "= n_layer;" in inner
            self._statement(
                (*conditions, _NEXTN) if is_behind else (*conditions, inner) if start[1] == "if" else conditions
            )
            if start[1] == "if" and text.startswith("else", self._skip_space()):
                self._at += len("else")
                self._statement((*conditions, f"!({inner})"))
        elif (start := re.compile(r"auto (\w+) = \[&\]\([^)]*\)\s*\{").match(text, at)) is not None:
            self._at = start.end() - 1
            self._block((*conditions, _NEXTN) if "mtp" in start[1] else conditions)
        else:
            end = at
            while text[end] != ";":
                end = _closing(text, end) + 1 if text[end] in "({[" else end + 1
            self._at = end + 1
            self._simple(" ".join(text[at:end].split()), conditions)

    def _block(self, conditions: tuple[str, ...]) -> None:
        end = _closing(self._text, self._at)
        self._at += 1
        while self._skip_space() < end:
            self._statement(conditions)
        self._at = end + 1

    def _simple(self, text: str, conditions: tuple[str, ...]) -> None:
        if "create_tensor" not in text:
            given = re.match(r"(?:const )?(?:int64_t|uint32_t|int32_t|int|bool|auto) (\w+) = (.*)$", text)
            if given is not None:
                self._locals[given[1]] = given[2]
            return
        for call in re.finditer(r"create_tensor(_qkv|_gate_up_exps|)\s*\(", text):
            parts = list(_arguments(text[call.end() : _closing(text, call.end() - 1)]))
            flags = parts[-1]
            if call[1]:
                dims = [self._dimension(each) for each in parts[2:-1]]
                self._keep({"parts": call[1].strip("_"), "dims": dims}, flags, conditions)
            elif "LLM_TENSOR" in parts[0] and not re.search(r"(^|\| )TENSOR_DUPLICATED", flags):
                name, *rest = _arguments(parts[0][parts[0].index("(") + 1 : -1])
                suffix = rest[0].strip('"') if rest and rest[0].startswith('"') else ""
                pattern = self._names[name].replace("%d", "{layer}") + (f".{suffix}" if suffix else "")
                dims = [self._dimension(each) for each in reversed(list(_arguments(parts[1].strip("{} "))))]
                self._keep({"name": pattern, "dims": dims}, flags, conditions)

    def _keep(self, row: Row, flags: str, conditions: tuple[str, ...]) -> None:
        row["may"] = "NOT_REQUIRED" in flags
        for text in conditions:
            meaning = self._meaning(text)
            if meaning is None or meaning.is_never:
                return
            row["may"] = row["may"] or meaning.is_optional
            for key, value in (("when", meaning.flag), ("where", meaning.place)):
                if value is not None:
                    row.setdefault(key, []).append(list(value))
        self._found.append(row)

    def _meaning(self, text: str) -> Condition | None:
        resolved = self._locals.get(text, text) if not text.startswith("!(") else text
        for pattern, meaning in CONDITIONS:
            if (slugs := meaning.slugs) is not None and self._slug not in slugs:
                continue
            if re.fullmatch(pattern, text) or re.fullmatch(pattern, resolved):
                return meaning
        raise ValueError(f"{self._slug}: a condition that is not understood: {text}")

    def _dimension(self, text: str, depth: int = 0) -> str:
        """A dimension as an expression over our fields; `?` where it differs from layer to layer or is not understood."""
        text = text.strip()
        chosen = re.sub(r"\(?([\w.]+)(?:\(\))?(?: > 0)? \? \1(?:\(\))? : [^)]*\)?$", r"\1", text)
        chosen = re.sub(r"\(?([\w.]+)(?:\(\))?(?: > 0)? \? \1(?:\(\))? : [^)]*\)", r"\1", chosen)
        if "?" in chosen or chosen == "0" or "std::" in chosen or re.search(r"\(i[l]?\)", chosen) or depth > 8:
            return "?"

        def field(word: re.Match[str]) -> str:
            name = word[0].removeprefix("hparams.")
            local = self._locals.get(name)
            if local is not None and not word[0].startswith("hparams."):
                inner = self._dimension(local, depth + 1)
                return f"({inner})" if re.search(r"\W", inner) else inner
            return FIELDS.get(name, "?")

        chosen = re.sub(r"(\d+)u\b", r"\1", re.sub(r"\(0?\)|_arr\[0\]", "", chosen)).replace("/", "//")
        expression = re.sub(r"[A-Za-z_][\w.]*", field, chosen).replace(" ", "")
        while (plain := re.sub(r"(?<![\w)])\(([\w]+)\)", r"\1", expression)) != expression:
            expression = plain
        return "?" if "?" in expression else expression


def _arguments(text: str) -> Iterator[str]:
    depth, start = 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            yield text[start:at].strip()
            start = at + 1
    if text[start:].strip():
        yield text[start:].strip()


def converter_classes(directory: Path) -> dict[str, list[str]]:
    """Architecture to the Hugging Face class names that the converter turns into it."""
    from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES

    classes: dict[str, ast.ClassDef] = {}
    for file in sorted(directory.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                classes[node.name] = node
    found: dict[str, list[str]] = {}
    for node in classes.values():
        member = _member(node, classes)
        registered = [
            argument.value
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "ModelBase.register"
            for argument in decorator.args
            if isinstance(argument, ast.Constant)
        ]
        if member in MODEL_ARCH.__members__ and registered:
            found.setdefault(MODEL_ARCH_NAMES[MODEL_ARCH[member]], []).extend(registered)
    return {slug: sorted(set(names)) for slug, names in found.items()}


def _member(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> str:
    for line in node.body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "model_arch":
            return ast.unparse(line.value).rpartition(".")[2]
    for base in node.bases:
        name = ast.unparse(base)
        if name in classes and (member := _member(classes[name], classes)):
            return member
    return ""


if __name__ == "__main__":
    main()
