"""Goal: a volume can be made, attached by the tools people have, grown, scrubbed and removed, and
what was flushed is there after kill -9 of whatever serves it.

Method: the command as a process, libnbd's and qemu's tools as clients over unix and TCP sockets.
Cites service 1-3.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.command import Holdfast
from tests.support.volumes import create, data_process_id, need, run, serving

MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Eight megabytes that say where they belong, with a hole in the middle."""
    path = tmp_path / "image"
    words = b"".join(number.to_bytes(8, "big") for number in range(3 * MIB // 8))
    with open(path, "wb") as file:
        file.write(words)
        file.seek(5 * MIB)
        file.write(words)
    return path


def test_volume_from_creation_to_removal(holdfast: Holdfast, image: Path, tmp_path: Path) -> None:
    need("nbdinfo", "nbdcopy")
    created = holdfast("volumes", "create", "db", "--size", "8M", "--preset", "database", "--json")
    assert (created.exit, created.json["health"], created.json["size_bytes"]) == (
        0,
        "down",
        8 * MIB,
    )

    with serving(holdfast) as served:
        told = json.loads(run("nbdinfo", "--json", served.uri("db")))["exports"][0]
        assert (told["export-size"], told["export-name"]) == (8 * MIB, "db")
        assert all(told[can] for can in ("can_flush", "can_fua", "can_trim", "can_multi_conn"))
        run("nbdcopy", "--flush", image, served.uri("db"))
        shown = holdfast("volumes", "show", "db", "--json").json
        assert (shown["health"], shown["lost_bytes"], shown["preset"]) == ("healthy", 0, "database")
        assert shown["serving"]["last_lsn"] == shown["serving"]["durable_lsn"] > 0
        refused = holdfast("volumes", "remove", "db", "--yes", "--json")
        assert (refused.exit, refused.json["code"]) == (11, "volume-in-use")

        # The data process is killed: the same command starts another, and nothing flushed is lost.
        first = data_process_id(holdfast, "db")
        os.kill(first, signal.SIGKILL)
        run("nbdcopy", served_again(holdfast, "db", first), tmp_path / "copied")
        assert (tmp_path / "copied").read_bytes() == image.read_bytes()
        last = data_process_id(holdfast, "db")
        served.stop(signal.SIGKILL)
        assert ended(last), "the data process outlived the one that started it"

    with serving(holdfast) as served:
        run("nbdcopy", served.uri("db"), tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == image.read_bytes()
        assert served.stop() == 0
    assert holdfast("volumes", "remove", "db", "--json").json["code"] == "not-confirmed"
    assert holdfast("volumes", "remove", "db", "--yes").exit == 0
    assert holdfast("volumes", "show", "db").exit == 10
    assert os.listdir(holdfast.state / "volumes") == []


def test_growth_and_scrub_while_served_and_not(
    holdfast: Holdfast, image: Path, tmp_path: Path
) -> None:
    need("nbdinfo", "nbdcopy", "qemu-io")
    create(holdfast, "db", "8M")

    with serving(holdfast) as served:
        run("nbdcopy", "--flush", image, served.uri("db"))
        assert holdfast("volumes", "grow", "db", "16M", "--json").json["size_bytes"] == 16 * MIB
        assert run("nbdinfo", "--size", served.uri("db")).strip() == str(16 * MIB)
        write = "write -P 0x5a 15M 64k"
        run("qemu-io", "-f", "raw", "-c", write, "-c", "flush", served.uri("db"))
        scrubbed = holdfast("volumes", "scrub", "db", "--json")
        assert (scrubbed.exit, scrubbed.json["damaged_bytes"]) == (0, 0)
        assert scrubbed.json["done_bytes"] == 16 * MIB
        assert scrubbed.json["checked_bytes"] >= 6 * MIB
        assert served.stop() == 0

    shrunk = holdfast("volumes", "grow", "db", "8M", "--json")
    assert shrunk.exit == 2, shrunk
    assert holdfast("volumes", "grow", "db", "24M", "--json").json["size_bytes"] == 24 * MIB
    flip_bit(holdfast.state / "volumes" / "db" / "extent", bytes([0x5A]) * 512)
    scrubbed = holdfast("volumes", "scrub", "db", "--json")
    assert scrubbed.exit == 3
    assert scrubbed.json["damaged_bytes"] == 4096
    (damage,) = scrubbed.json["damage"]
    assert 15 * MIB <= damage["start"] < damage["end"] <= 15 * MIB + 64 * 1024


def test_what_is_refused(holdfast: Holdfast) -> None:
    create(holdfast, "db", "8M")
    for arguments, exit_code, code in (
        (("create", "db", "--size", "8M"), 11, "volume-exists"),
        (("create", "x", "--size", "5000"), 2, "bad-volume-size"),
        (("show", "gone"), 10, "no-volume"),
        (("serve", "db", "--listen", "0.0.0.0:0"), 17, "open-address"),
        (("serve", "db", "--socket", "/" + "x" * 120), 2, "socket-path-too-long"),
    ):
        ended = holdfast("volumes", *arguments, "--json")
        assert (ended.exit, ended.json["code"]) == (exit_code, code), ended


@pytest.mark.slow
def test_name_of_a_new_volume_survives_loss_of_power(tmp_path: Path) -> None:
    """Every directory that was made, and the one a name was given in, is flushed after that."""
    need("strace")
    trace, state = tmp_path / "trace", tmp_path / "new" / "state"
    run(
        "strace", "-f", "-y", "-o", trace, "-e", "trace=fsync,mkdir,rename",
        "env", f"HOLDFAST_STATE={state}",
        sys.executable, "-m", "holdfast", "volumes", "create", "db", "--size", "8M",
    )  # fmt: skip

    told = [line for line in trace.read_text().splitlines() if line.endswith("= 0")]
    volumes = state / "volumes"
    for directory in (state.parent, state, volumes):
        (made,) = [at for at, line in enumerate(told) if f'mkdir("{directory}"' in line]
        flushed = [at for at, line in enumerate(told) if f"<{directory.parent}>)" in line]
        assert max(flushed) > made
    (renamed,) = [at for at, line in enumerate(told) if "rename(" in line and "/db" in line]
    assert max(at for at, line in enumerate(told) if f"<{volumes}>)" in line) > renamed


def test_volume_whose_entry_is_damaged_is_listed_with_the_others(holdfast: Holdfast) -> None:
    create(holdfast, "good", "8M")
    create(holdfast, "torn", "8M")
    (holdfast.state / "volumes" / "torn" / "entry.json").write_bytes(b"{")

    listed = holdfast("volumes", "list", "--json")

    assert listed.exit == 0
    assert [json.loads(line)["name"] for line in listed.stdout.splitlines()] == ["good", "torn"]


def test_volumes_side_by_side_over_tcp_and_tls(holdfast: Holdfast, tmp_path: Path) -> None:
    """Each by its own process and port; in TLS only with a certificate of the right authority."""
    need("nbdinfo")
    create(holdfast, "db", "8M")
    create(holdfast, "log", "16M")
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("server")
    tls = ("--tls-certificate", certificate, "--tls-key", key, "--tls-ca", authority.path)
    listen = ("--listen", "db=127.0.0.1:0", "--listen", "log=0.0.0.0:0")

    with serving(holdfast, *listen, *map(str, tls), volumes_count=2) as served:
        assert data_process_id(holdfast, "db") != data_process_id(holdfast, "log")
        sizes = {name: run("nbdinfo", "--size", served.uri(name)) for name in ("db", "log")}
        assert sizes == {"db": f"{8 * MIB}\n", "log": f"{16 * MIB}\n"}
        remote = served.listening["log"][1].replace("0.0.0.0", "127.0.0.1")
        assert remote.startswith("nbds://")
        for signer, is_let_in in ((authority, True), (Authority(tmp_path / "other"), False)):
            place = client_certificates(signer, authority, tmp_path / f"client-{is_let_in}")
            uri = f"{remote}?tls-certificates={place}"
            if is_let_in:
                assert run("nbdinfo", "--size", uri) == f"{16 * MIB}\n"
            else:
                with pytest.raises(AssertionError):
                    run("nbdinfo", "--size", uri)

        # Another authority takes over while it serves; a broken file before that changes nothing.
        new = Authority(tmp_path / "new")
        place = client_certificates(new, new, tmp_path / "client-new")
        uri = f"{remote}?tls-certificates={place}"
        whole = authority.path.read_bytes()
        authority.path.write_bytes(b"no certificate")
        served.hang_up("certificates not reloaded")
        authority.path.write_bytes(whole)
        with pytest.raises(AssertionError):
            run("nbdinfo", "--size", uri)
        for path, taken in zip((certificate, key), new.issue("server"), strict=True):
            path.write_bytes(taken.read_bytes())
        authority.path.write_bytes(new.path.read_bytes())
        served.hang_up("certificates reloaded")
        assert run("nbdinfo", "--size", uri) == f"{16 * MIB}\n"
        with pytest.raises(AssertionError):
            run("nbdinfo", "--size", f"{remote}?tls-certificates={tmp_path / 'client-True'}")


def test_inspection_prints_what_is_stored(holdfast: Holdfast) -> None:
    need("qemu-io")
    create(holdfast, "db", "8M")
    with serving(holdfast) as served:
        command = ("-c", "write -P 7 4k 8k", "-c", "flush")
        run("qemu-io", "-f", "raw", *command, served.uri("db"))
        served.stop(signal.SIGKILL)

    inspected = holdfast("volumes", "inspect", "db", "--json")
    found = [json.loads(line) for line in inspected.stdout.splitlines()]

    assert inspected.exit == 0
    by_kind = {kind: [each for each in found if each["what"] == kind] for kind in KINDS}
    assert any(each["is_valid"] and each["size_bytes"] == 8 * MIB for each in by_kind["superblock"])
    assert len(by_kind["superblock"]) == 2
    assert by_kind["end"][0]["lost_last_lsn"] == 0
    assert "superblock" in holdfast("volumes", "inspect", "db").stdout


KINDS = ("superblock", "hint", "slots", "map", "batch", "record", "end")


def served_again(holdfast: Holdfast, name: str, process_id: int) -> str:
    """Wait until another process serves a volume and return its URI."""
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        serving_now = holdfast("volumes", "show", name, "--json").json["serving"]
        if serving_now is not None and serving_now["pid"] != process_id:
            return str(serving_now["listening"][0])
        time.sleep(0.1)
    raise AssertionError("it was not served again")


def ended(process_id: int) -> bool:
    """Wait for the end of a process that is not ours."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def flip_bit(path: Path, pattern: bytes) -> None:
    """Flip one bit in the first place of a file where these bytes are."""
    data = path.read_bytes()
    at = data.index(pattern)
    with open(path, "r+b") as file:
        file.seek(at + 100)
        file.write(bytes([data[at + 100] ^ 1]))


def client_certificates(signer: Authority, server: Authority, place: Path) -> Path:
    """Lay out what libnbd looks for: the server's authority, a certificate and its key."""
    place.mkdir()
    certificate, key = signer.issue("client")
    for name, path in (
        ("ca-cert.pem", server.path),
        ("client-cert.pem", certificate),
        ("client-key.pem", key),
    ):
        (place / name).write_bytes(path.read_bytes())
    return place
