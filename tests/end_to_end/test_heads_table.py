"""Goal: ickpt's API answers as the table in docs/guide/heads.md says, row by row.

Method: the real service and a real HTTP store as processes; each test named after its row.
"""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.heads import (
    ServiceProcess,
    StoreProcess,
    ask,
    running_service,
    running_store,
)


@pytest.fixture(scope="module")
def store() -> Iterator[StoreProcess]:
    with running_store() as running:
        yield running


@pytest.fixture(scope="module")
def service(
    store: StoreProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("heads")
    with running_service(
        directory,
        f"ICKPT.StoreEndpoints={store.url}/v1/",
        "ICKPT.TransactionTimeout=700ms",
        "ICKPT.SwiftTimeout=1s",
    ) as running:
        yield running


@pytest.fixture
def object_url(store: StoreProcess, request: pytest.FixtureRequest) -> str:
    return store.put(f"/v1/AUTH_test/c/{abs(hash(request.node.name))}", b"store's copy")


def test_head_is_204_without_any_header(service: ServiceProcess) -> None:
    assert ask(service.url, "HEAD").status == 204


def test_get_answers_the_store_copy_marked_so_when_there_is_no_head(
    service: ServiceProcess, object_url: str
) -> None:
    answer = service("GET", "/", object_url, token="reader")

    assert (answer.status, answer.body) == (200, b"store's copy")
    assert answer.headers["x-head-source"] == "store"
    assert answer.headers["x-head-revision"] == "0"


def test_get_answers_the_committed_value(service: ServiceProcess, object_url: str) -> None:
    posted = service.write(object_url, b"v1")

    answer = service("GET", "/", object_url, token="reader")

    assert (posted.status, answer.status, answer.body) == (200, 200, b"v1")
    assert answer.headers["x-head-source"] == "head"
    assert (
        answer.headers["etag"] == posted.headers["etag"] == f'"{answer.headers["x-head-revision"]}"'
    )


def test_get_neither_shows_nor_discards_pending_work(
    service: ServiceProcess, object_url: str
) -> None:
    service.write(object_url, b"v1")
    assert service("PUT", "/a", object_url, body=b"v2").status == 204

    assert service.value(object_url) == b"v1"
    assert service("POST", "/a", object_url).status == 200
    assert service.value(object_url) == b"v2"


@pytest.mark.parametrize("second", ["PUT", "DELETE"])
def test_put_or_delete_supersedes_what_is_pending(
    service: ServiceProcess, object_url: str, second: str
) -> None:
    assert service("PUT", "/a", object_url, body=b"v1").status == 204
    assert service(second, "/b", object_url, body=b"v2").status == 204

    superseded = service("POST", "/a", object_url)

    assert (superseded.status, superseded.json["context"]) == (410, {"reason": "superseded"})
    assert service("POST", "/b", object_url).status == 200


def test_same_id_and_body_again_is_idempotent(service: ServiceProcess, object_url: str) -> None:
    first = service("PUT", "/a", object_url, body=b"v1")
    again = service("PUT", "/a", object_url, body=b"v1")
    done = service("POST", "/a", object_url)
    late = service("PUT", "/a", object_url, body=b"v1")
    done_again = service("POST", "/a", object_url)

    assert [first.status, again.status, late.status] == [204] * 3
    assert done.status == done_again.status == 200
    assert done.headers["x-head-revision"] == done_again.headers["x-head-revision"]


def test_same_id_with_another_body_is_another_transaction(
    service: ServiceProcess, object_url: str
) -> None:
    for value in (b"v1", b"v2", b"v1"):
        assert service.write(object_url, value, "/same").status == 200
        assert service.value(object_url) == value


def test_post_with_nothing_pending_is_410(service: ServiceProcess, object_url: str) -> None:
    assert service("POST", "/a", object_url).status == 410


def test_post_with_wrong_id_is_410_and_harms_nothing(
    service: ServiceProcess, object_url: str
) -> None:
    service("PUT", "/a", object_url, body=b"v1")

    assert service("POST", "/b", object_url).status == 410
    assert service("POST", "/a", object_url).status == 200


def test_post_again_after_success_is_200_again(service: ServiceProcess, object_url: str) -> None:
    first = service.write(object_url, b"v1", "/a")
    service.write(object_url, b"v2", "/b")

    again = service("POST", "/a", object_url)

    assert (again.status, again.headers["etag"]) == (200, first.headers["etag"])
    assert service.value(object_url) == b"v2"


def test_delete_without_a_head_is_204_then_200_then_404(
    service: ServiceProcess, object_url: str
) -> None:
    assert service("DELETE", "/a", object_url).status == 204
    assert service("POST", "/a", object_url).status == 200

    gone = service("GET", "/", object_url)

    assert (gone.status, gone.json["code"]) == (404, "head-deleted")
    assert b"store's copy" not in gone.body


def test_expired_transaction_cannot_commit(service: ServiceProcess, object_url: str) -> None:
    service("PUT", "/a", object_url, body=b"v1")
    # Longer than TransactionTimeout; nothing else happens that could clear it away.
    ask(service.url, "HEAD")
    _wait(0.8)

    expired = service("POST", "/a", object_url)

    assert (expired.status, expired.json["context"]) == (410, {"reason": "expired"})


def _wait(duration_s: float) -> None:
    threading.Event().wait(duration_s)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize(
    "url", [None, "", "x", "ftp://a/b", "http://a", "http://a/b?c", "http:///b"]
)
def test_missing_or_malformed_storage_url_is_400(
    service: ServiceProcess, method: str, url: str | None
) -> None:
    assert service(method, "/", url).status == 400


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_unknown_endpoint_is_403_and_no_connection_is_made(
    service: ServiceProcess, method: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.3)
        answer = service(method, "/", f"http://127.0.0.1:{canary.getsockname()[1]}/v1/a/c/o")

        assert (answer.status, answer.json["code"]) == (403, "store-not-allowed")
        with pytest.raises(TimeoutError):
            canary.accept()


@pytest.mark.parametrize("status", [401, 403, 404, 503])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_the_no_of_the_store_is_passed_on(
    service: ServiceProcess, store: StoreProcess, method: str, status: int
) -> None:
    assert service(method, "/", f"{store.url}/v1/status-{status}/o").status == status


@pytest.mark.parametrize(("status", "answered"), [(500, 502), (418, 502), (302, 502)])
def test_what_is_neither_yes_nor_no_is_502(
    service: ServiceProcess, store: StoreProcess, status: int, answered: int
) -> None:
    assert service("GET", "/", f"{store.url}/v1/status-{status}/o").status == answered


def test_unreachable_store_is_502(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with running_service(tmp_path, f"ICKPT.StoreEndpoints=http://127.0.0.1:{port}/") as service:
        answer = service("GET", "/", f"http://127.0.0.1:{port}/v1/a/c/o")

    assert (answer.status, answer.json["code"]) == (502, "store-unreachable")


def test_slow_store_is_504(service: ServiceProcess, store: StoreProcess) -> None:
    answer = service("GET", "/", f"{store.url}/v1/sleep-5/o")

    assert (answer.status, answer.json["code"]) == (504, "store-slow")


def test_redirect_is_not_followed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.3)
        target = f"http://127.0.0.1:{canary.getsockname()[1]}/"
        with (
            running_store("--redirect-to", target) as store,
            running_service(tmp_path, f"ICKPT.StoreEndpoints={store.url}/v1/") as service,
        ):
            answer = service("GET", "/", f"{store.url}/v1/redirect/o")
        assert answer.status == 502
        with pytest.raises(TimeoutError):
            canary.accept()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("method", ["PUT", "POST", "GET", "DELETE"])
def test_body_over_the_limit_is_413(
    service: ServiceProcess, object_url: str, method: str, chunked: bool
) -> None:
    parts = urlsplit(service.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    body: object = iter([b"x" * 4000, b"x" * 4000]) if chunked else b"x" * 4097
    connection.request(
        method,
        "/a",
        body,  # type: ignore[arg-type]
        {"X-Storage-Url": object_url, "X-Auth-Token": "owner"},
        encode_chunked=chunked,
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_endless_headers_end_the_connection(service: ServiceProcess) -> None:
    parts = urlsplit(service.url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), 10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Auth-Token: ")
        sent_bytes = _send_until_closed(connection, 64 << 20)
    assert sent_bytes < 64 << 20
    assert ask(service.url, "HEAD").status == 204


def _send_until_closed(connection: socket.socket, limit_bytes: int) -> int:
    chunk, sent_bytes = b"x" * 65536, 0
    try:
        while sent_bytes < limit_bytes:
            connection.sendall(chunk)
            sent_bytes += len(chunk)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return sent_bytes


def test_body_at_the_limit_is_stored(service: ServiceProcess, object_url: str) -> None:
    assert service.write(object_url, b"x" * 4096).status == 200
    assert service.value(object_url) == b"x" * 4096


@pytest.mark.parametrize("method", ["PATCH", "OPTIONS", "TRACE", "COPY"])
def test_other_method_is_405_with_allow(service: ServiceProcess, method: str) -> None:
    answer = ask(service.url, method)

    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == {"DELETE", "GET", "HEAD", "POST", "PUT"}


def test_if_match_takes_only_the_current_revision(service: ServiceProcess, object_url: str) -> None:
    absent = service("GET", "/", object_url).headers["etag"]
    assert service("PUT", "/a", object_url, body=b"v1", if_match=absent).status == 204
    first = service("POST", "/a", object_url).headers["etag"]

    stale = service("PUT", "/b", object_url, body=b"v2", if_match=absent)
    current = service("PUT", "/c", object_url, body=b"v2", if_match=first)

    assert (stale.status, stale.headers["x-head-revision"]) == (412, first.strip('"'))
    assert current.status == 204
    assert service("PUT", "/d", object_url, body=b"v2", if_match="*").status == 400


def test_get_with_transaction_id_tells_what_became_of_it(
    service: ServiceProcess, object_url: str
) -> None:
    def status(name: str) -> str:
        told = service("GET", "/", object_url, token="reader", x_transaction_id=name)
        assert told.json["status"] == told.headers["x-transaction-status"]
        return str(told.json["status"])

    service("PUT", "/a", object_url, body=b"v1")
    assert (status("/a"), status("/b")) == ("pending", "unknown")
    service("PUT", "/b", object_url, body=b"v2")
    assert (status("/a"), status("/b")) == ("refused", "pending")
    service("POST", "/b", object_url)
    assert status("/b") == "done"


def test_history_is_told_newest_first(service: ServiceProcess, object_url: str) -> None:
    for value in (b"v1", b"v2"):
        service.write(object_url, value)

    told = json.loads(service("GET", "/", object_url, x_head_history="10").body)

    assert [entry["value_base64"] for entry in told] == ["djI=", "djE="]


def test_store_copy_that_is_no_head_is_502_and_not_shown(
    service: ServiceProcess, store: StoreProcess
) -> None:
    url = store.put("/v1/AUTH_test/c/large", b"x" * 5000)

    answer = service("GET", "/", url)

    assert (answer.status, answer.json["code"]) == (502, "store-copy-too-long")


def test_metrics_and_readiness_are_on_the_admin_port(service: ServiceProcess) -> None:
    assert ask(service.admin_url, "GET", "/readyz").status == 200
    metrics = ask(service.admin_url, "GET", "/metrics").body.decode()
    assert 'holdfast_heads_requests_total{method="HEAD",status="204"}' in metrics
    assert ask(service.admin_url, "GET", "/other").status == 404


def test_tokens_are_never_logged(service: ServiceProcess, object_url: str) -> None:
    secret = "gAAAA-this-is-a-secret"
    for method in ("GET", "PUT", "POST", "DELETE", "PATCH"):
        service(method, "/a", object_url, token=secret, body=b"v")
        service(method, "/a", "http://127.0.0.1:1/x", token=secret)
    service("GET", "/a", object_url, token=secret + "\x7f")
    log = service.log.read_text()

    assert "PUT '/a' 401" in log
    assert secret not in log
