"""Goal: one object has one head, and nothing outside the allow-list has any (original's bug 4, 10).

Method: spellings of one URL must give one key; ambiguous ones must be refused.
"""

import pytest

from holdfast.errors import DeniedError, InvalidRequestError
from holdfast.heads.address import Dialect, parse_address, parse_realm

REALMS = (
    parse_realm("http://Swift.example:80/v1|https://swift.example/v1/"),
    parse_realm("http://127.0.0.1:8080/v1/AUTH_test"),
)
KEY = "ickpt/http://swift.example/v1/AUTH_a/c/0000000000000000"


@pytest.mark.parametrize(
    "url",
    [
        "http://swift.example/v1/AUTH_a/c/0000000000000000",
        "HTTP://SWIFT.example:80/v1/AUTH_a/c/0000000000000000",
        "https://swift.example/v1/AUTH_a/c/0000000000000000",
        "https://swift.example:443/v1/AUTH_a/c/0000000000000000",
        "http://swift.example./v1/AUTH_a/c/%3000000000000000%30",
        "http://swift.example/v1/%41UTH_a/c/0000000000000000",
    ],
)
def test_spellings_of_one_object_have_one_head(url: str) -> None:
    assert parse_address(url, REALMS).key == KEY


def test_encoding_of_reserved_characters_makes_no_difference() -> None:
    raw, encoded = "http://swift.example/v1/a:b@c", "http://swift.example/v1/a%3ab%40c"

    assert parse_address(raw, REALMS) == parse_address(encoded, REALMS)


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "swift.example/v1/a",
        "ftp://swift.example/v1/a",
        "http://swift.example",
        "http://swift.example/v1/a?x=1",
        "http://swift.example/v1/a#x",
        "http://me@swift.example/v1/a",
        "http://swift.example/v1//a",
        "http://swift.example/v1/../a",
        "http://swift.example/v1/%2e%2E/a",
        "http://swift.example/v1/./a",
        "http://swift.example/v1/a%2Fb",
        "http://swift.example/v1/a%00",
        "http://swift.example/v1/a%0d%0a",
        "http://swift.example/v1/a%5cb",
        "http://swift.example/v1/a\r\nX: y",
        "http://swift.example/v1/a b",
        "http://swift.example/v1/é",
        "http://swift.example/v1/a/",
        "http://swift.example:0/v1/a",
        "http://swift.example:99999/v1/a",
        "http://swift.example/v1/" + "a" * 3000,
    ],
)
def test_ambiguous_url_is_refused(url: str | None) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_address(url, REALMS)

    assert caught.value.code == "bad-storage-url"


@pytest.mark.parametrize(
    "url",
    [
        "http://elsewhere.example/v1/a",
        "http://swift.example:8080/v1/a",
        "http://swift.example/v1evil/a",
        "http://swift.example/v2/a",
        "http://swift.example.evil.example/v1/a",
        "https://127.0.0.1:8080/v1/AUTH_test/c/o",
        "http://127.0.0.1:8080/v1/AUTH_tester/c/o",
        "http://localhost:8080/v1/AUTH_test/c/o",
    ],
)
def test_url_outside_the_allow_list_is_denied(url: str) -> None:
    with pytest.raises(DeniedError) as caught:
        parse_address(url, REALMS)

    assert caught.value.code == "store-not-allowed"


def test_bug_4_long_urls_and_any_bytes_of_a_name_are_stored() -> None:
    name = "a/%3F" * 150

    assert parse_address(f"http://127.0.0.1:8080/v1/AUTH_test/{name}", REALMS).key.endswith(name)


@pytest.mark.parametrize("text", ["", "swift", "http://a/?x", "http://a/|ftp://b/", "http://a/b//"])
def test_bad_endpoint_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_realm(text)

    assert caught.value.code == "bad-store-endpoint"


def test_endpoint_without_path_allows_the_whole_host() -> None:
    realm = parse_realm("http://swift.example")

    assert parse_address("http://swift.example/any", (realm,)).key == (
        "ickpt/http://swift.example/any"
    )


def test_store_that_speaks_s3_is_marked_so() -> None:
    realm = parse_realm("s3+https://s3.example/bucket/")

    address = parse_address("https://s3.example/bucket/o", (realm,))

    assert (address.dialect, address.url) == (Dialect.S3, "https://s3.example/bucket/o")
