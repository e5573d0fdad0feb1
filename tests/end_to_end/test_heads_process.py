"""Goal: the service starts only as it was told, speaks TLS, and stops without cutting a commit.

Method: real processes, real certificates, real signals.
"""

import shutil
import signal
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.command import Holdfast
from tests.support.heads import (
    ServiceProcess,
    StoreProcess,
    ask,
    running_service,
    running_store,
    start_service,
)


@pytest.fixture(scope="module")
def store() -> Iterator[StoreProcess]:
    with running_store() as running:
        yield running


def _conf(directory: Path, *lines: str) -> Path:
    conf = directory / "ickpt.conf"
    standing = ["[ICKPT]", "Port: 0", "AdminPort: 0", f"DataBasePath: {directory}/db"]
    conf.write_text("\n".join([*standing, *lines]) + "\n")
    return conf


def _tls_lines(authority: Authority, certificate: Path, key: Path) -> list[str]:
    return [
        f"CertFilePath: {certificate}",
        f"KeyFilePath: {key}",
        f"CACertFilePath: {authority.path}",
    ]


def _serial(service: ServiceProcess) -> str:
    host, port = service.url.removeprefix("https://").split(":")
    return ssl.get_server_certificate((host, int(port)))


def test_tls_is_spoken_and_certificates_are_reloaded_on_hangup(
    store: StoreProcess, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("first")
    conf = _conf(
        tmp_path, *_tls_lines(authority, certificate, key), f"StoreEndpoints: {store.url}/v1/"
    )
    service = start_service(tmp_path, conf)
    service.ca = authority.path
    try:
        url = store.put("/v1/a/c/tls")
        assert service.url.startswith("https://")
        assert service.write(url, b"v1").status == 200
        first = _serial(service)

        certificate.write_text("not a certificate")
        service.process.send_signal(signal.SIGHUP)
        _until(lambda: "not reloaded" in service.log.read_text())
        assert _serial(service) == first

        for made, used in zip(authority.issue("second"), (certificate, key), strict=True):
            shutil.copy(made, used)
        service.process.send_signal(signal.SIGHUP)
        _until(lambda: "certificates reloaded" in service.log.read_text())
        assert _serial(service) != first
        assert service.value(url) == b"v1"
    finally:
        assert service.stop() == 0


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it did not happen within 5 s")


def test_some_of_the_tls_files_are_a_start_error(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    lines = _tls_lines(authority, certificate, key)
    holdfast = Holdfast(state=tmp_path / "state")

    for missing in range(3):
        conf = _conf(tmp_path, *(line for i, line in enumerate(lines) if i != missing))
        started = holdfast("heads", "serve", "--conf", conf)
        assert (started.exit, started.stdout) == (2, "")
        assert "go together" in started.stderr


def test_plain_http_beyond_loopback_is_refused_unless_allowed(tmp_path: Path) -> None:
    conf = _conf(tmp_path, "IPAddr: 0.0.0.0")
    started = Holdfast(state=tmp_path / "state")("heads", "serve", "--conf", conf)
    allowed = start_service(tmp_path, conf, "ICKPT.AllowPlainHTTP=true")

    try:
        assert started.exit == 2
        assert "not loopback" in started.stderr
        assert ask(allowed.admin_url, "GET", "/readyz").status == 200
    finally:
        allowed.stop()


def test_termination_answers_what_is_under_way_and_keeps_it(
    store: StoreProcess, tmp_path: Path
) -> None:
    url = store.put("/v1/sleep-0.7/o")
    with running_service(tmp_path / "heads", f"ICKPT.StoreEndpoints={store.url}/v1/") as service:
        service("PUT", "/a", url, body=b"v1")
        answers: list[int] = []
        posting = threading.Thread(target=lambda: answers.append(service("POST", "/a", url).status))
        posting.start()
        # In the middle of the store's two slow answers.
        threading.Event().wait(0.5)
        exit_code = service.stop(signal.SIGTERM)
        posting.join()

    assert (exit_code, answers) == (0, [200])
    with running_service(tmp_path / "heads", f"ICKPT.StoreEndpoints={store.url}/v1/") as again:
        assert again.value(url) == b"v1"


def test_configuration_in_toml_with_an_override(store: StoreProcess, tmp_path: Path) -> None:
    conf = tmp_path / "heads.toml"
    conf.write_text(
        f'[heads]\nport = 0\nadmin_port = 0\ndatabase_path = "{tmp_path}/db"\n'
        f'store_endpoints = ["{store.url}/v1/"]\n'
    )
    url = store.put("/v1/a/c/toml")
    service = start_service(tmp_path, conf, "ICKPT.BodyLimit=100")

    try:
        assert service("PUT", "/a", url, body=b"x" * 101).status == 413
        assert service.write(url, b"x" * 100).status == 200
    finally:
        assert service.stop(signal.SIGINT) == 0


def test_missing_conf_file_is_an_error(tmp_path: Path) -> None:
    started = Holdfast(state=tmp_path)("heads", "serve", "--conf", tmp_path / "none.conf")

    assert started.exit == 10
    assert "none.conf" in started.stderr
