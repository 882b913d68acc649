"""The types follow the OpenAPI document."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import pytest

from frameloom import types
from frameloom.protocol import job_request

SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parent / "openapi.json").read_text())[
    "components"
]["schemas"]

PLAIN = {"string": str, "integer": int, "number": float, "boolean": bool, "null": NoneType}


def described(schema: dict[str, Any]) -> Any:
    """A schema as a type: a set of names, each optional one with what it may be."""
    if ref := schema.get("$ref"):
        return {ref.rpartition("/")[2]}
    if one := schema.get("oneOf"):
        return set().union(*(described(s) for s in one))
    kinds = schema["type"]
    names: set[str] = set()
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind == "array":
            (item,) = described(schema["items"])
            names.add(f"list[{item}]")
        elif kind == "object":
            (value,) = described(schema["additionalProperties"])
            names.add(f"dict[str, {value}]")
        else:
            names.add(PLAIN[kind].__name__)
    return names


NAMED = {
    id(value): name for name, value in vars(types).items() if get_origin(value) is typing.Literal
}


def written(hint: Any) -> set[str]:
    """A type hint in the same way."""
    if id(hint) in NAMED:
        return {NAMED[id(hint)]}
    if get_origin(hint) in (typing.Union, UnionType):
        return set().union(*(written(part) for part in get_args(hint)))
    if get_origin(hint) in (list, dict):
        parts = [next(iter(written(part))) for part in get_args(hint)]
        return {f"{get_origin(hint).__name__}[{', '.join(parts)}]"}
    return {hint.__name__}


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_type_is_as_the_document_has_it(name: str) -> None:
    schema, ours = SCHEMAS[name], getattr(types, name)
    if "enum" in schema:
        assert list(get_args(ours)) == schema["enum"]
        return
    hints = typing.get_type_hints(ours)
    assert set(hints) == set(schema["properties"])
    assert ours.__required_keys__ == set(schema.get("required", []))
    for field, hint in hints.items():
        assert written(hint) == described(schema["properties"][field]), field


def test_each_option_of_a_job_has_its_place_in_the_request() -> None:
    values = dict.fromkeys(types.JobOptions.__annotations__, "x")
    request = job_request("in.mp4", ["blur"], values, 7)  # type: ignore[arg-type]
    assert set(request) == set(SCHEMAS["JobRequest"]["properties"])
    assert set(request["encoder"]) == set(SCHEMAS["EncoderRequest"]["properties"])
    assert request["source"] == {"upload": True, "name": "in.mp4", "size": 7}
    assert request["output"] == {"path": "x"}
