"""The HTTP routes of volumes, for the node to mount; thin: bodies in, values out, nothing decided.

Invariants:

1. No body over BODY_BYTES_MAX is read to its end, whatever its Content-Length says.
2. Every error is answered as whoever mounts the routes answers errors.
3. What takes longer than a request (a scrub) is begun by one and asked for by others.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from holdfast.errors import HoldfastError, InvalidRequestError
from holdfast.model.ids import VolumeName
from holdfast.model.limits import KIB
from holdfast.volumes.control import ScrubProgress
from holdfast.volumes.results import plain_scrub, plain_view
from holdfast.volumes.service import DEFAULT_PRESET, Volumes
from holdfast.volumes.supervision import ServeRequest

VOLUMES: Final = "/api/v1/volumes"
BODY_BYTES_MAX: Final = 4 * KIB
BODY_TIMEOUT_S: Final = 30.0

BodyT = TypeVar("BodyT")
Endpoint = Callable[[Request], Awaitable[Response]]


class CreateVolume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a creation."""

    name: str
    size_bytes: int
    preset: str = DEFAULT_PRESET


class GrowVolume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a growth."""

    size_bytes: int


def volume_routes(
    volumes: Volumes,
    answer_error: Callable[[HoldfastError], Response],
    request_of: Callable[[VolumeName], ServeRequest] = lambda name: ServeRequest(name=name),
) -> list[Route]:
    """Return the routes below /api/v1/volumes.

    Args:
        volumes: What they are about.
        answer_error: How an error is told.
        request_of: Where a volume is to be served.
    """

    async def create(request: Request) -> Response:
        wanted = await _body(request, CreateVolume)
        view = await volumes.create(wanted.name, wanted.size_bytes, wanted.preset)
        return JSONResponse(plain_view(view), 201, {"Location": f"{VOLUMES}/{view.name}"})

    async def list_all(_request: Request) -> Response:
        return JSONResponse({"volumes": [plain_view(view) for view in await volumes.views()]})

    async def show(request: Request) -> Response:
        return JSONResponse(plain_view(await volumes.show(_name(request))))

    async def remove(request: Request) -> Response:
        await volumes.remove(_name(request))
        return Response(status_code=204)

    async def grow(request: Request) -> Response:
        wanted = await _body(request, GrowVolume)
        return JSONResponse(plain_view(await volumes.grow(_name(request), wanted.size_bytes)))

    async def serve(request: Request) -> Response:
        view = await volumes.show(_name(request))
        process = await volumes.serve(request_of(view.name))
        return JSONResponse({"listening": list(process.listening)})

    async def stop(request: Request) -> Response:
        await volumes.stop(_name(request))
        return Response(status_code=204)

    def scrub(ask: Callable[[str], Awaitable[ScrubProgress]], status: int) -> Endpoint:
        async def answer(request: Request) -> Response:
            return JSONResponse(plain_scrub(await ask(_name(request))), status)

        return answer

    one = f"{VOLUMES}/{{name}}"
    table: list[tuple[str, str, Endpoint]] = [
        ("POST", VOLUMES, create),
        ("GET", VOLUMES, list_all),
        ("GET", one, show),
        ("DELETE", one, remove),
        ("POST", f"{one}/grow", grow),
        ("PUT", f"{one}/serving", serve),
        ("DELETE", f"{one}/serving", stop),
        ("POST", f"{one}/scrub", scrub(volumes.start_scrub, 202)),
        ("GET", f"{one}/scrub", scrub(volumes.scrub, 200)),
        ("DELETE", f"{one}/scrub", scrub(volumes.cancel_scrub, 200)),
    ]
    return [_told(answer, [method], path, answer_error) for method, path, answer in table]


def _told(
    answer: Endpoint,
    methods: list[str],
    path: str,
    answer_error: Callable[[HoldfastError], Response],
) -> Route:
    async def answer_safely(request: Request) -> Response:
        try:
            return await answer(request)
        except HoldfastError as error:
            return answer_error(error)

    return Route(path, answer_safely, methods=methods)


def _name(request: Request) -> str:
    return str(request.path_params["name"])


async def _body(request: Request, kind: type[BodyT]) -> BodyT:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise InvalidRequestError(
                        f"the body has more than {BODY_BYTES_MAX} bytes", code="body-too-large"
                    )
        return msgspec.json.decode(body, type=kind)
    except TimeoutError as error:
        raise InvalidRequestError("the body did not come in time", code="body-slow") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"the body is wrong: {error}", code="bad-body") from error
