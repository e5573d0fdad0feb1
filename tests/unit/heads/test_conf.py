"""Goal: ickpt's conf file is taken as it is, everything unknown or out of range is refused.

Method: the published sample, each option with good and bad values, overrides, TOML.
"""

import pytest
from tests.architecture.source import ROOT

from holdfast.errors import InvalidRequestError
from holdfast.heads.conf import parse_settings

SAMPLE = """\
[ICKPT]
IPAddr:                  127.0.0.1
Port:                    33123        # TCP or TLS as determined by:
CertFilePath:                         #  TCP: if all of {Cert|Key|CACert}FilePath are missing
KeyFilePath:                          #   - or -
CACertFilePath:                       #  TLS: if all of {Cert|Key|CACert}FilePath are present
DataBasePath:            /tmp/ickptDB # Implicitly created if if non-existent
SwiftTimeout:            10m
SwiftConnectionPoolSize: 128
TransactionTimeout:      10s
"""


def test_sample_of_the_original_is_taken() -> None:
    settings = parse_settings(SAMPLE, is_toml=False)

    assert settings.port == 33123
    assert settings.database_path == "/tmp/ickptDB"
    assert settings.swift_timeout_s == 600
    assert settings.transaction_timeout_s == 10
    assert not settings.is_tls


def test_overrides_are_laid_over_the_file() -> None:
    settings = parse_settings(
        SAMPLE,
        is_toml=False,
        overrides=["ICKPT.Port=1", "ICKPT.SwiftTimeout=1m30s", "ICKPT.StoreEndpoints=http://a/"],
    )

    assert (settings.port, settings.swift_timeout_s, len(settings.realms)) == (1, 90, 1)


def test_keys_of_the_older_original_are_left_alone() -> None:
    assert parse_settings(SAMPLE + "SwiftRetryLimit: 4\n", is_toml=False).port == 33123


@pytest.mark.parametrize(
    "line",
    [
        "Prot: 1",
        "[OTHER]",
        "Port: x",
        "Port: 65536",
        "Port: -1",
        "SwiftTimeout: 10",
        "SwiftTimeout: 10 m",
        "SwiftTimeout: 2h",
        "TransactionTimeout: 0s",
        "SwiftConnectionPoolSize: 1",
        "Monotonic: yes",
        "StoreEndpoints: nowhere",
        "BodyLimit: 4097",
        "CertFilePath: /cert.pem",
        "DataBasePath:",
        "IPAddr: ickpt",
        "IPAddr: 10.0.0.1",
        "AdminIPAddr: 0.0.0.0",
        "nonsense",
    ],
)
def test_bad_line_is_refused(line: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_settings(SAMPLE + line + "\n", is_toml=False)


@pytest.mark.parametrize("override", ["Port=1", "OTHER.Port=1", "ICKPT.Port", "ICKPT.None=1"])
def test_bad_override_is_refused(override: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_settings(SAMPLE, is_toml=False, overrides=[override])


def test_toml_has_the_same_options() -> None:
    text = (
        '[heads]\ndatabase_path = "/db"\nport = 1\nswift_timeout_s = 1.5\nmonotonic = true\n'
        'store_endpoints = ["http://a/|http://b/", "http://c/"]\n'
    )

    settings = parse_settings(text, is_toml=True)

    assert (settings.port, settings.swift_timeout_s, settings.monotonic) == (1, 1.5, True)
    assert [len(realm.endpoints) for realm in settings.realms] == [2, 1]


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[other]\n",
        "heads = 1\n",
        "[heads]\nprot = 1\n",
        '[heads]\nport = "1"\n',
        "[heads]\nport = true\n",
        "[heads]\nport = 70000\n",
        "[heads]\nstore_endpoints = [1]\n",
        "[heads]\nswift_timeout_s = 0\n",
        "[heads]\nswift_timeout_s = nan\n",
    ],
)
def test_bad_toml_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_settings(text + 'database_path = "/db"\n', is_toml=True)


def test_samples_in_the_documentation_are_taken() -> None:
    operations = ROOT / "docs" / "operations"

    conf = parse_settings((operations / "ickpt.conf").read_text(), is_toml=False)
    toml = parse_settings((operations / "heads.toml").read_text(), is_toml=True)

    assert conf == toml
