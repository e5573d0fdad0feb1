"""The reference of a node's settings, from its options."""

import dataclasses
import inspect
from typing import get_type_hints

from holdfast.server.node_options import MAP_TABLE, TABLES, Option, fields_of

_TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def node_settings_page(generated: str) -> str:
    """Return node-settings.md.

    Args:
        generated: The line that says so.
    """
    parts = [
        "# Settings of a node",
        "",
        generated,
        "",
        "One file of TOML, named by `holdfast node --config`; a",
        "[sample](../operations/node.toml) has every key. An unknown table or key, another type or",
        "a value out of range is refused at the start, by its name. `[peers.HOST]` stands once for",
        "each source that this node pulls from, `[instances.NAME]` once for each database.",
        "",
    ]
    for name, settings in TABLES.items():
        parts += _table(name, settings)
    parts += [
        f"## {MAP_TABLE}",
        "",
        "Keys are source hosts, values target hosts; the same table stands in the settings of both",
        "nodes. A node's role for a request is that of the host in the request's `Host` header.",
        "",
    ]
    return "\n".join(parts)


def _table(name: str, settings: type) -> list[str]:
    kinds = get_type_hints(settings)
    said = inspect.cleandoc(settings.__doc__ or "")
    return [
        f"## {name}",
        "",
        f"`{said.partition(': ')[0]}`: {said.partition(': ')[2]}",
        "",
        "| key | type | default | range | meaning |",
        "|---|---|---|---|---|",
        *(_row(option, kinds[option.name]) for option in fields_of(settings)),
        "",
    ]


def _row(field: "dataclasses.Field[object]", kind: object) -> str:
    option = field.metadata["option"]
    assert isinstance(option, Option)
    default = field.default
    shown = "" if default in ("", (), dataclasses.MISSING) else f"`{_spell(default)}`"
    unit = f" {option.unit}" if option.unit else ""
    span = f"{option.low:g} to {option.high:g}{unit}" if option.high is not None else ""
    span = span or ", ".join(option.choices)
    words = next((spelt for known, spelt in _TYPES.items() if kind is known), "")
    words = words or ("list of texts" if default == () else "table")
    meaning = option.meaning.replace("|", "\\|")
    return f"| `{field.name}` | {words} | {shown}{unit if shown else ''} | {span} | {meaning} |"


def _spell(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)
