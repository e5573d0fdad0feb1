"""Goal: a node starts with settings that mean what their author meant, or says which key does not.

Method: texts, parsed; each refusal is one change to a text that is good. The sample and the
generated reference are held against the options themselves.
"""

import contextlib
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidRequestError
from holdfast.model.access import Permission
from holdfast.server.node_options import MAP_TABLE, TABLES, fields_of
from holdfast.server.node_settings import parse_node_settings

ROOT = Path(__file__).resolve().parents[3]
GOOD = """
[node]
names = ["Target.example", "10.0.0.2"]
state = "/state"
[listen]
port = 0
[migration_map]
"source.example" = "target.example"
[peers."source.example"]
port = 9999
kind = "sidecar"
[instances.main]
hosts = ["target.example"]
directories = { data = ["/d0", "/d1"], hints = "/h" }
[instances.other]
hosts = ["10.0.0.2"]
cassandra_root = "/c"
files_to_exclude = ["glob:*.tmp"]
database_addresses = ["127.0.0.1:9042", "[::1]:7199"]
"""
TLS = '[tls]\ncertificate = "/c"\nkey = "/k"\nclient_ca = "/ca"\n'
TOKENS = '[access]\ntoken_file = "/t"\n'


def with_table(table: str, lines: str) -> str:
    return GOOD.replace(f"[{table}]\n", f"[{table}]\n{lines}\n")


def test_volumes_lie_and_listen_where_it_was_said() -> None:
    volumes = '[volumes]\nserve = ["db"]\n[volumes.listen]\ndb = "0.0.0.0:10809"\n'
    settings = parse_node_settings(GOOD + TLS + volumes)
    assert settings.volumes.listen == {"db": ("0.0.0.0", 10809)}
    assert settings.volumes_state == Path("/state")
    assert parse_node_settings(GOOD + '[volumes]\nstate = "/v"').volumes_state == Path("/v")


def test_settings_are_a_tree_of_what_was_written() -> None:
    settings = parse_node_settings(GOOD)
    assert settings.identity.names == ("target.example", "10.0.0.2")
    assert (settings.listen.address, settings.listen.port) == ("127.0.0.1", 0)
    assert settings.migration_map == {"source.example": "target.example"}
    assert (settings.peers["source.example"].port, settings.is_open) == (9999, True)
    main, other = settings.instances["target.example"], settings.instances["10.0.0.2"]
    named = {directory.name: directory.path for directory in main.directories}
    assert named == {"data/0": b"/d0", "data/1": b"/d1", "hints/0": b"/h"}
    assert [directory.name for directory in other.directories] == [
        "commitlog/0",
        "data/0",
        "hints/0",
        "saved_caches/0",
    ]
    assert other.exclude_directories == ("glob:${DATA_FILE_DIR}/*/*/snapshots",)
    assert main.staging == Path("/state/staging/main")
    assert settings.database_addresses["other"] == (("127.0.0.1", 9042), ("::1", 7199))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (GOOD + "[lissen]\n", "lissen"),
        (with_table("listen", "prot = 1"), "listen.prot"),
        (with_table("listen", "stream_port = 65536"), "listen.stream_port"),
        (with_table("listen", 'stream_port = "9"'), "listen.stream_port"),
        (with_table("listen", "stream_port = true"), "listen.stream_port"),
        (with_table("listen", "stream_port = 1.5"), "listen.stream_port"),
        (with_table("listen", "allow_plain = 1"), "listen.allow_plain"),
        (with_table("listen", 'address = "a\\u0000b"'), "listen.address"),
        (with_table("node", 'log_level = "loud"'), "node.log_level"),
        (GOOD + '[volumes]\nserve = ["a/b"]\n', "volumes.serve"),
        (GOOD + '[volumes]\nserve = ["all", "db"]\n', "volumes.serve"),
        (GOOD + '[volumes]\nstate = "here"\n', "volumes.state"),
        (GOOD + '[volumes.listen]\n"a/b" = "127.0.0.1:1"\n', "volumes.listen.a/b"),
        (GOOD + "[volumes.listen]\ndb = 10809\n", "volumes.listen.db"),
        (GOOD + '[volumes.listen]\ndb = "0.0.0.0:10809"\n', "volumes.listen.db"),
        (GOOD + "[checkpoints]\nenabled = 1\n", "checkpoints.enabled"),
        (GOOD.replace('state = "/state"', 'state = "state"'), "node.state"),
        (GOOD.replace('"Target.example", ', ""), "instances.main.hosts"),
        (GOOD.replace("names = [", "names = [3, "), "node.names"),
        (GOOD + "[limits]\nidle_timeout_s = nan\n", "limits.idle_timeout_s"),
        (GOOD + "[limits]\nfile_requests_max = 0\n", "limits.file_requests_max"),
        (GOOD + "limits = 3\n", "instances.other.limits"),
        ("limits = 3\n" + GOOD, "limits"),
        (GOOD.replace('"sidecar"', '"rsync"'), "peers.source.example.kind"),
        (GOOD.replace("9999", "0"), "peers.source.example.port"),
        (GOOD.replace("port = 9999", "ca = '/ca'"), "peers.source.example.tls"),
        (GOOD.replace('[peers."source.example"]', "[peers.elsewhere]"), "migration_map."),
        (GOOD.replace('"10.0.0.2"]\ncass', '"target.example"]\ncass'), "instances.other.hosts"),
        (GOOD.replace('hosts = ["10.0.0.2"]', ""), "instances.other.hosts"),
        (GOOD.replace('"/d1"', '"d1"'), "instances.main.directories"),
        (GOOD.replace("hints =", "Hints ="), "instances.main.directories"),
        (GOOD.replace("127.0.0.1:9042", "127.0.0.1"), "instances.other.database_addresses"),
        (GOOD.replace('= "target.example"', '= "source.example"'), "migration_map"),
        (GOOD.replace('= "target.example"', "= 3"), "migration_map.source.example"),
        (GOOD.replace('"source.example" =', '"a b" ='), "migration_map"),
        (GOOD + TLS.replace('key = "/k"', ""), "tls.key"),
        (GOOD + '[tls]\nclient_ca = "/ca"\n', "tls.client_ca"),
        (GOOD + '[access.certificates]\na = ["copy"]\n', "access.certificates"),
        (GOOD + TLS + '[access.certificates]\na = ["own"]\n', "access.certificates.a"),
        (GOOD + TLS + '[access.certificates]\na = "copy"\n', "access.certificates.a"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(text: str, name: str) -> None:
    """Invariants 1 and 3 of node_settings.py."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_node_settings(text)
    assert caught.value.code == "bad-setting"
    assert f"setting {name}" in caught.value.message


@pytest.mark.parametrize(
    ("address", "more", "is_allowed"),
    [
        ("127.0.0.1", "", True),
        ("127.9.9.9", "", True),
        ("::1", "", True),
        ("localhost", "", True),
        ("0.0.0.0", "", False),
        ("::", TLS, False),
        ("10.0.0.2", TOKENS, False),
        ("db.example.org", TLS + TOKENS, True),
        ("10.0.0.2", TLS + '[access.certificates]\na = ["copy"]\n', True),
    ],
)
def test_beyond_loopback_callers_are_known_and_tokens_hidden(
    address: str, more: str, is_allowed: bool
) -> None:
    """Invariant 2 of node_settings.py."""
    text = with_table("listen", f'address = "{address}"') + more
    if is_allowed:
        assert parse_node_settings(text).listen.address == address
        return
    with pytest.raises(InvalidRequestError) as caught:
        parse_node_settings(text)
    assert "setting listen.address" in caught.value.message


def test_tokens_in_the_clear_take_a_word_of_consent() -> None:
    text = with_table("listen", 'address = "10.0.0.2"\nallow_plain = true') + TOKENS
    assert not parse_node_settings(text).is_open


@given(st.text(max_size=200) | st.sampled_from([GOOD, TLS]).map(lambda text: text[:97]))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequestError):
        parse_node_settings(text)


def test_sample_parses_and_has_every_key() -> None:
    text = (ROOT / "docs" / "operations" / "node.toml").read_text()
    settings = parse_node_settings(text)
    assert settings.access.certificates["db1.example.org"] == frozenset(Permission)
    document = tomllib.loads(text)
    assert MAP_TABLE in document
    for name, options in TABLES.items():
        table = document[name]
        if name in ("peers", "instances"):
            (table,) = table.values()
        assert isinstance(table, Mapping)
        assert set(table) == {field.name for field in fields_of(options)}, name
