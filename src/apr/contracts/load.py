"""Finding and reading the contract files, from an installed package or a checkout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr.errors import DamagedFileError, InputOutputError, NotFoundError, in_lines

if TYPE_CHECKING:
    from apr.contracts.model import Clause, Contract

PACKAGE_DIRECTORY = Path(__file__).resolve().parent.parent
MAXIMUM_CONTRACT_BYTES = 1 << 20
STATUS_KEYS = frozenset({"status", "discharge_status", "discharged", "verdict", "evidence_discharged_by"})


def checkout_root() -> Path | None:
    """The repository this package is imported from, None when it is installed as a wheel."""
    root = PACKAGE_DIRECTORY.parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "contracts").is_dir() else None


def contracts_directory() -> Path:
    """Where the contract files are: beside the source in a checkout, else in the installed package."""
    root = checkout_root()
    directory = root / "contracts" if root is not None else PACKAGE_DIRECTORY / "contracts" / "data"
    if not directory.is_dir():
        raise NotFoundError(
            "the contracts that belong to this installation are missing",
            where=str(directory),
            expected="a directory of *.yaml files",
            remedy="install the package again",
        )
    return directory


def contract_paths(directory: Path) -> tuple[Path, ...]:
    return tuple(sorted(directory.glob("*.yaml")))


def load_contracts(directory: Path | None = None) -> tuple[Contract, ...]:
    """Every contract in `directory` (default: the ones shipped), by file name; DamagedFileError names each fault."""
    place = directory or contracts_directory()
    paths = contract_paths(place)
    if not paths:
        raise NotFoundError("no contract files", where=str(place), expected="at least one *.yaml file")
    return tuple(read_contract(path) for path in paths)


def read_contract(path: Path) -> Contract:
    """One contract file, checked against the schema.

    Raises DamagedFileError with every fault of the file: YAML that does not parse, a key given twice or not known,
    a missing key, a value of another form, a status typed into the file.
    """
    faults: list[str] = []
    try:
        text = _read_text(path)
        document = _parse_yaml(text)
    except ValueError as error:
        raise _damaged(path, [str(error)]) from error
    faults += [f"{key}: status is computed from the last recorded run, never typed" for key in _status_keys(document)]
    contract = _validate(_without_status(document), faults)
    if contract is not None and contract.contract != path.stem:
        faults.append(f"contract: says {contract.contract!r}, the file is named {path.name}")
    if faults or contract is None:
        raise _damaged(path, faults)
    return contract


def clause_index(contracts: tuple[Contract, ...]) -> Mapping[str, tuple[Contract, Clause]]:
    """Ids of clauses, their aliases and falsifiers, to the contract and clause they belong to."""
    index: dict[str, tuple[Contract, Clause]] = {}
    for contract in contracts:
        for clause in contract.clauses:
            for name in sorted(clause.ids):
                index.setdefault(name, (contract, clause))
    return index


def _read_text(path: Path) -> str:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAXIMUM_CONTRACT_BYTES:
            raise ValueError(f"{size_bytes} bytes, more than {MAXIMUM_CONTRACT_BYTES}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputOutputError("a contract cannot be read", where=str(path), found=str(error)) from error


def _parse_yaml(text: str) -> Any:
    import yaml

    safe_loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class UniqueKeyLoader(safe_loader):  # type: ignore[misc]
        """PyYAML keeps the last of two equal keys without a word; a contract must not."""

    def construct_mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"line {node.start_mark.line + 1}: key given twice: {', '.join(twice)}")
        loader.flatten_mapping(node)
        return {
            loader.construct_object(key, deep=True): loader.construct_object(value, deep=True)
            for key, value in node.value
        }

    UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, construct_mapping)
    try:
        return yaml.load(text, Loader=UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error


def _validate(document: Any, faults: list[str]) -> Contract | None:
    from pydantic import ValidationError

    from apr.contracts.model import Contract

    try:
        return Contract.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False)
        for fault in found:
            place = fault["loc"]
            inside = [other for other in found if other is not fault and other["loc"][: len(place)] == place]
            if fault["type"] != "too_short" or not inside:
                faults.append(f"{'.'.join(str(part) for part in place) or 'document'}: {fault['msg']}")
        return None


def _status_keys(document: Any, place: str = "") -> Iterator[str]:
    if isinstance(document, dict):
        for key, value in document.items():
            here = f"{place}.{key}" if place else str(key)
            if key in STATUS_KEYS:
                yield here
            yield from _status_keys(value, here)
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from _status_keys(value, f"{place}.{number}")


def _without_status(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _without_status(value) for key, value in document.items() if key not in STATUS_KEYS}
    return [_without_status(value) for value in document] if isinstance(document, list) else document


def _damaged(path: Path, faults: list[str]) -> DamagedFileError:
    return DamagedFileError(
        "a contract file breaks the schema",
        where=str(path),
        expected="the keys of docs/contracts.md, each once",
        found=in_lines(*faults),
        remedy="apr contract check",
        facts={"faults": faults},
    )
