"""What requests to the routes of checkpoints hold, with limits; every mistake is told as one.

Invariants:
1. No body over BODY_BYTES_MAX is read, and none is waited for longer than BODY_TIMEOUT_S.
2. No URL of a bank has room for a secret: those come from the server's environment alone.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request

from holdfast.checkpoints.manifest import parse_resource
from holdfast.checkpoints.model import Resource, Retention
from holdfast.checkpoints.places import check_place
from holdfast.errors import InvalidRequestError
from holdfast.model.limits import KIB, PATH_BYTES_MAX, RESOURCES_MAX

BODY_BYTES_MAX: Final = 64 * KIB
BODY_TIMEOUT_S: Final = 30.0
TEXT_MAX: Final = 200
RETENTION_MAX: Final = 999_999
SIGNERS_MAX: Final = 100

_REMOTE: Final = re.compile(r"s3\+https?:|swift:")


async def read_body(request: Request) -> dict[str, Any]:
    """Return the JSON object of a body; InvalidRequestError."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for block in request.stream():
                body += block
                if len(body) > BODY_BYTES_MAX:
                    raise InvalidRequestError(
                        f"the body is over {BODY_BYTES_MAX} bytes",
                        code="body-too-large",
                        advice="send less",
                    )
    except TimeoutError:
        raise InvalidRequestError(
            f"the body did not come within {BODY_TIMEOUT_S:g} s",
            code="body-slow",
            advice="send it at once",
        ) from None
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise bad("the body must be JSON") from None
    if not isinstance(given, dict):
        raise bad("the body must be an object")
    return given


def parameters(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parameters of plug-ins."""
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict) or not all(
        isinstance(each, dict) for each in parameters.values()
    ):
        raise bad("parameters must be an object of objects, by type or Type#id")
    return parameters


def choice(text: Any, kind: Any) -> Any:
    """Return a member of an enumeration; None for none."""
    if text is None:
        return None
    if isinstance(text, str) and text in list(kind):
        return kind(text)
    raise bad(f"{text!r} is none of {', '.join(kind)}")


def number(text: str | None, default: int, largest: int) -> int:
    """Return the limit of a page."""
    if text is None:
        return default
    if text.isascii() and text.isdigit() and 1 <= len(text) < 7 and 1 <= int(text) <= largest:
        return int(text)
    raise bad(f"limit must be 1 to {largest}")


def parse_cursor(text: str | None) -> tuple[int, str] | None:
    """Return where the page before ended."""
    if text is None:
        return None
    created, _, checkpoint_id = text.partition("-")
    if created.isascii() and created.isdigit() and len(created) < 20 and len(checkpoint_id) == 36:
        return int(created), checkpoint_id
    raise bad("cursor must be that of the page before")


def bad(what: str) -> InvalidRequestError:
    """Return the error of a wrong request."""
    return InvalidRequestError(what, code="bad-request", advice="see the guide to checkpoints")


def text(given: Mapping[str, Any], name: str, longest: int = TEXT_MAX) -> str:
    """Return a text that must be given."""
    found = given.get(name)
    if isinstance(found, str) and 0 < len(found) <= longest and found.isprintable():
        return found
    raise bad(f"{name} must be a text of 1 to {longest} printable characters")


def flag(given: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """Return a truth value."""
    found = given.get(name, default)
    if isinstance(found, bool):
        return found
    raise bad(f"{name} must be true or false")


def amount(given: Mapping[str, Any], name: str, default: float, largest: float) -> float:
    """Return a number from 0 to the largest."""
    found = given.get(name, default)
    if isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found <= largest:
        return found
    raise bad(f"{name} must be a number from 0 to {largest:g}")


def percent(given: Mapping[str, Any]) -> float | None:
    """Return how much to read; None for all."""
    if given.get("percent") is None:
        return None
    return amount(given, "percent", 0, 100) or _no_percent()


def _no_percent() -> float:
    raise bad("percent must be a number over 0, up to 100")


def bank_url(given: Mapping[str, Any], name: str = "bank") -> str:
    """Return the URL of a bank, as the server's host sees it.

    Raises:
        InvalidRequestError: `bad-bank-url`, `bank-with-secret`.
    """
    url = text(given, name, PATH_BYTES_MAX)
    if not url.startswith("/") and not _REMOTE.match(url):
        raise InvalidRequestError(
            f"{url[:TEXT_MAX]!r} names no bank that a node can open",
            code="bad-bank-url",
            advice="name an absolute path on the node's host, s3+https://HOST/BUCKET/PREFIX or "
            "swift:CONTAINER/PREFIX",
        )
    return check_place(url, name).rstrip("/") or "/"


def resources(given: Mapping[str, Any]) -> list[Resource]:
    """Return the resources of a plan, as the server's host names them."""
    found = given.get("resources")
    if not isinstance(found, list) or not 0 < len(found) <= RESOURCES_MAX:
        raise bad(f"resources must be a list of 1 to {RESOURCES_MAX} objects")
    return [_resource(each) for each in found]


def _resource(document: object) -> Resource:
    wrong = bad("a resource must be an object with type and id")
    if not isinstance(document, dict):
        raise wrong
    try:
        resource = parse_resource(document)
    except (KeyError, TypeError, ValueError):
        raise wrong from None
    is_directory = resource.type == "Holdfast::Directory"
    if is_directory and (not resource.id.startswith("/") or "\0" in resource.id):
        raise bad("the id of a directory must be an absolute path on the node's host")
    return resource


def retention(given: Mapping[str, Any]) -> Retention:
    """Return the rules of a plan; none keep everything."""
    rules = given.get("retention", {})
    names = Retention.__dataclass_fields__
    if not isinstance(rules, dict) or not all(
        name in names and type(rule) is int and 0 <= rule <= RETENTION_MAX
        for name, rule in rules.items()
    ):
        raise bad(f"retention must be an object of whole numbers: {', '.join(names)}")
    return Retention(**rules)


def signers(given: Mapping[str, Any]) -> list[str]:
    """Return fingerprints of keys to trust beside the server's own."""
    found = given.get("signers", [])
    if (
        isinstance(found, list)
        and len(found) <= SIGNERS_MAX
        and all(isinstance(each, str) and 0 < len(each) <= TEXT_MAX for each in found)
    ):
        return found
    raise bad(f"signers must be a list of up to {SIGNERS_MAX} fingerprints")
