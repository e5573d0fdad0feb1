"""Asks a source over HTTP what it is and whether its migration is over. Little, and rarely.

Bulk bytes go other ways: the stream of a holdfast node, or stores/sidecar.
"""

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple

from holdfast.errors import DeniedError, InvalidRequestError, StateError, UnavailableError
from holdfast.files.migration.model import LatchState, PeerTls, SourceKind, SourcePeer
from holdfast.model.limits import MIB
from holdfast.ports import Clock

ANSWER_S: Final = 15.0
ANSWER_BYTES_MAX: Final = MIB
PATIENCE_S: Final = 5.0
"""How long a source that does not answer is asked again; beyond that a pass waits for it."""
PAUSE_S: Final = 0.25
PAUSE_MAX_S: Final = 2.0


class PeerAnswer(NamedTuple):
    """What a peer answered: a JSON object, or none."""

    status: int
    body: dict[str, object]


class FoundPeer(NamedTuple):
    """What a source turned out to be."""

    kind: SourceKind
    """HOLDFAST or SIDECAR."""
    stream_port: int | None = None
    is_stream_tls: bool = False
    instance: str | None = None
    """What it calls the instance it serves under the host it was asked by."""


def tls_context(tls: PeerTls | None) -> ssl.SSLContext | None:
    """Return how to speak TLS to a peer; None for a plain connection.

    Raises:
        InvalidRequestError: `bad-certificate`.
    """
    if tls is None:
        return None
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.certificate is not None and tls.key is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequestError(
            f"the certificates for a peer do not load: {error.strerror or error}",
            code="bad-certificate",
            advice="check ca, certificate and key of the peer",
        ) from error
    return context


def find_peer(peer: SourcePeer, clock: Clock) -> FoundPeer:
    """Say what a source is, asking again while it does not answer.

    Raises:
        UnavailableError: `source-unreachable`.
        DeniedError: `source-refused`.
    """
    if peer.kind is SourceKind.SIDECAR:
        return FoundPeer(SourceKind.SIDECAR)
    answer = ask_patiently(peer, "/api/v1/node", clock)
    if answer.status == 200 and answer.body.get("product") == "holdfast":
        return _found_node(peer.host, answer.body)
    if answer.status in (401, 403):
        raise _refused(peer, answer.status)
    if peer.kind is SourceKind.HOLDFAST:
        raise UnavailableError(
            f"{peer.host}:{peer.port} is no holdfast node: it answered {answer.status}",
            code="source-unreachable",
            advice="check its port, or set the kind of the peer to auto or sidecar",
        )
    return FoundPeer(SourceKind.SIDECAR)


def _found_node(host: str, body: Mapping[str, object]) -> FoundPeer:
    port, instances = body.get("streamPort"), body.get("instances")
    names = [
        each.get("name")
        for each in (instances if isinstance(instances, list) else [])
        if isinstance(each, dict) and each.get("host") == host
    ]
    return FoundPeer(
        kind=SourceKind.HOLDFAST,
        stream_port=port if isinstance(port, int) else None,
        is_stream_tls=body.get("streamTls") is True,
        instance=str(names[0]) if names else None,
    )


def find_stream_port(peer: SourcePeer) -> int:
    """Return the stream port of a node of which one port is known, of HTTP or of the stream.

    Raises:
        UnavailableError: `source-unreachable`, `certificate-untrusted`; nothing is tried again.
        DeniedError: `source-refused`.
    """
    try:
        answer = ask_peer(peer, "/api/v1/node")
    except ssl.SSLCertVerificationError as error:
        raise _untrusted(peer, error) from error
    except (http.client.HTTPException, ssl.SSLError, ConnectionResetError, BrokenPipeError):
        return peer.port  # It is there, and does not speak HTTP.
    except OSError as error:
        raise _unreachable(peer, error.strerror or str(error)) from error
    if answer.status in (401, 403):
        raise _refused(peer, answer.status)
    return _found_node(peer.host, answer.body).stream_port or peer.port


def check_not_completed(peer: SourcePeer, clock: Clock) -> None:
    """Return if the migration is not over at the source.

    Raises:
        StateError: `source-completed`.
        UnavailableError, DeniedError: As find_peer.
    """
    answer = ask_patiently(peer, "/api/v1/live-migration/status", clock)
    if answer.status in (401, 403):
        raise _refused(peer, answer.status)
    state = answer.body.get("state")
    if answer.status != 200 or state not in list(LatchState):
        raise UnavailableError(
            f"{peer.host}:{peer.port} does not tell the status of the migration: "
            f"it answered {answer.status}",
            code="source-unreachable",
            advice="check that the source has this host in its migration map",
        )
    if state == LatchState.COMPLETED.value:
        raise StateError(
            f"the migration is marked complete at {peer.host}",
            code="source-completed",
            advice="clear the status at the source if it is to be migrated again",
        )


def ask_patiently(peer: SourcePeer, path: str, clock: Clock) -> PeerAnswer:
    """GET a path of a peer, again and again while it cannot be reached, is busy or in trouble."""
    began_ns, pause_s = clock.monotonic_ns(), PAUSE_S
    while True:
        try:
            answer = ask_peer(peer, path)
            if answer.status < 500:
                return answer
            why = f"it answered {answer.status}"
        except ssl.SSLCertVerificationError as error:
            raise _untrusted(peer, error) from error
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
        if (clock.monotonic_ns() - began_ns) / 1e9 + pause_s > PATIENCE_S:
            raise _unreachable(peer, why)
        clock.sleep(pause_s)
        pause_s = min(PAUSE_MAX_S, 2 * pause_s)


def ask_peer(peer: SourcePeer, path: str) -> PeerAnswer:
    """GET a path of a peer once; OSError or HTTPException if there is no whole answer."""
    connection = _connection(peer)
    try:
        headers = {"Accept": "application/json"}
        if peer.token is not None:
            headers["Authorization"] = f"Bearer {peer.token}"
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read(ANSWER_BYTES_MAX)
        if response.length:
            raise http.client.IncompleteRead(body, response.length)
        return PeerAnswer(response.status, _json_object(body))
    finally:
        connection.close()


def _connection(peer: SourcePeer) -> http.client.HTTPConnection:
    context = tls_context(peer.tls)
    if context is None:
        return http.client.HTTPConnection(peer.host, peer.port, timeout=ANSWER_S)
    return http.client.HTTPSConnection(peer.host, peer.port, timeout=ANSWER_S, context=context)


def _json_object(body: bytes) -> dict[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _refused(peer: SourcePeer, status: int) -> DeniedError:
    return DeniedError(
        f"{peer.host}:{peer.port} does not let this host in: it answered {status}",
        code="source-refused",
        advice="give it a token or certificate with the permissions copy and verify",
    )


def _unreachable(peer: SourcePeer, why: str) -> UnavailableError:
    return UnavailableError(
        f"{peer.host}:{peer.port} does not answer: {why}",
        code="source-unreachable",
        advice="check that it runs and can be reached, then run it again",
    )


def _untrusted(peer: SourcePeer, error: ssl.SSLCertVerificationError) -> UnavailableError:
    return UnavailableError(
        f"{peer.host}:{peer.port}: its certificate cannot be trusted: {error.verify_message}",
        code="certificate-untrusted",
        advice="name the authority that signed it",
    )
