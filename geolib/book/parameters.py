"""What a notebook's parameters are: declared types, values given as text, and files they name.

A parameter is of the type of its default, or of the one it is annotated with: a ``Path`` must be
there, ``Weights`` may also be ``imagenet`` or ``random``, and a ``Network`` a name on the hub.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal, NamedTuple, get_origin

import papermill
import yaml
from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError, ValidationInfo


class Text(str):
    """A value as somebody typed it: what it means, its parameter says."""


class File(str):
    """Absolute path of a file or folder that a parameter names."""


class Parameter(NamedTuple):
    """A default, and the type that values have."""

    default: Any
    kind: Any


def _there(given: Any, info: ValidationInfo) -> File:
    """A path as seen from the folder that is the validation's context."""
    if not isinstance(given, str | os.PathLike):
        raise ValueError("a path was expected")
    base = Path(info.context or "")
    # A file may be called ~$places.csv, which `Path.expanduser` refuses.
    path = base / os.path.expanduser(given)  # noqa: PTH111
    if not str(given).strip() or not os.access(path, os.R_OK):
        raise ValueError(f"no file or folder that can be read; looked for in {base}")
    str(path).encode()  # notebooks are UTF-8
    return File(path)


def _there_or_on_hub(given: Any, info: ValidationInfo) -> str:
    try:
        return _there(given, info)
    except ValueError:
        if isinstance(given, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", given):
            return str(given)
        raise


_Place = Annotated[str, PlainValidator(_there)]
_KINDS = {
    "Path": _Place,
    "Weights": Annotated[Literal["imagenet", "random"] | _Place, Field(union_mode="left_to_right")],
    "Network": Annotated[str, PlainValidator(_there_or_on_hub)],
}


def declared_parameters(notebook: Path) -> dict[str, Parameter]:
    """Parameters that a notebook declares, with their default values.

    A default must be a literal: one derived inside the parameters cell would not follow an
    override.
    """
    found = {}
    for name, one in papermill.inspect_notebook(notebook).items():
        try:
            default = ast.literal_eval(one["default"])
        except (SyntaxError, ValueError):
            raise ValueError(
                f"parameter {name!r} of {notebook.name} defaults to {one['default']}, "
                "which is not a literal; derive it in a later cell"
            ) from None
        stated = one["inferred_type_name"]
        kind = _kind(default) if stated == "None" else eval(stated, {}, _KINDS)
        found[name] = Parameter(default, kind)
    return found


def _kind(default: Any) -> Any:
    """Type of a default; of a list, that of its items where they are alike."""
    if isinstance(default, dict):
        return dict[str, Any]
    if isinstance(default, list):
        kinds = {type(item) for item in default}
        return GenericAlias(list, kinds.pop() if len(kinds) == 1 else Any)
    return Any if default is None else type(default)


def fitted(given: Any, parameter: Parameter, base: Path) -> Any:
    """What a parameter is given, as what it is; paths are as seen from ``base``.

    Declared text stays as it stands; elsewhere ``null`` is None. ValueError for what does not fit.
    """
    default, kind = parameter
    if isinstance(given, Text):
        if given in ("null", "None") and not isinstance(default, str):
            return None
        if kind is Any:
            return _parsed(given)
        if get_origin(kind) in (list, dict):
            given = _items(given) if kind == list[str] else read_yaml(given)
    if given is None:
        return None
    if isinstance(given, bool) and kind in (int, float):
        raise ValueError("a number was expected, no switch")
    adapter = TypeAdapter[Any](kind, config=ConfigDict(allow_inf_nan=False))
    try:
        return _settled(adapter.validate_python(given, context=base))
    except ValidationError as error:
        problem = error.errors()[-1]
        at = "".join(f"{part!r}: " for part in problem["loc"] if isinstance(part, int))
        raise ValueError(at + problem["msg"].removeprefix("Value error, ")) from None


def _parsed(text: str) -> Any:
    """What text means where no type is declared: null, a switch, a number or a list; else text."""
    try:
        if text[:1] in ("[", "{", "'", '"'):
            return _settled(read_yaml(text))
        return json.loads(text, parse_constant=str)
    except ValueError:
        return str(text)


def _settled(found: Any) -> Any:
    """The value, where no type says what the texts within it mean."""
    if isinstance(found, dict):
        return {str(key): _settled(item) for key, item in found.items()}
    if isinstance(found, list):
        return [_settled(item) for item in found]
    return _parsed(found) if isinstance(found, Text) else found


_ITEM = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,]*?)\s*(?:,|$)""")


def _items(text: str) -> Any:
    """The texts of ``[NO, *.jpg, 'a, b']``, where YAML would take some for something else."""
    inner = re.fullmatch(r"\s*\[(.*?),?\s*\]\s*", text, re.DOTALL)
    if inner is None:
        return read_yaml(text)
    found = _ITEM.findall(inner[1])[:-1]  # the last is empty, at the end
    return [read_yaml(item) if item[:1] in ("'", '"') else item for item in found]


class _Loader(yaml.SafeLoader):
    """Leaves plain scalars as :class:`Text`."""


_Loader.yaml_implicit_resolvers = {
    first: [one for one in resolvers if one[0].endswith((":merge", ":null"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if first in ("<", "~", "")
}


def _text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return Text(node.value) if node.style is None else node.value


_Loader.add_constructor("tag:yaml.org,2002:str", _text)


def read_yaml(content: str | bytes) -> Any:
    """YAML as people write it: NO is Norway, 12:30 no number. ValueError, in a line, if none."""
    try:
        return yaml.load(content, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML: {' '.join(str(error).split())}") from None


def files(found: Any) -> Iterator[File]:
    """Files and folders that a value names."""
    if isinstance(found, File):
        yield found
    elif isinstance(found, dict | list):
        for item in found.values() if isinstance(found, dict) else found:
            yield from files(item)


def by_name(found: Any) -> Any:
    """The value with the names of files and folders in place of their paths."""
    if isinstance(found, dict):
        return {key: by_name(item) for key, item in found.items()}
    if isinstance(found, list):
        return [by_name(item) for item in found]
    return Path(found).name if isinstance(found, File) else found
