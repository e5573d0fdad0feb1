"""Goal: however a name is written, it has one key, and no name has the key of another.

Method: hypothesis draws object names, and encodes characters that need not be.
"""

from urllib.parse import quote, unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import HoldfastError
from holdfast.heads.address import parse_address, parse_realm

REALMS = (parse_realm("http://store/v1/"),)
NAMES = st.lists(
    st.text(
        st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=["Cc"]),
        min_size=1,
        max_size=12,
    ).filter(lambda part: part not in (".", "..")),
    min_size=1,
    max_size=3,
).map("/".join)


@given(name=NAMES, encoded=st.lists(st.booleans(), min_size=200, max_size=200))
def test_spellings_of_a_name_have_one_key(name: str, encoded: list[bool]) -> None:
    raw = b"ABCabc012-._~!$&'()*+,;=:@"
    spelt = "".join(
        chr(byte) if byte == ord("/") or (byte in raw and not encode) else f"%{byte:02x}"
        for byte, encode in zip(name.encode(), encoded, strict=False)
    )

    one = parse_address(f"http://store/v1/{quote(name)}", REALMS)

    assert parse_address(f"http://store/v1/{spelt}", REALMS) == one


@given(name=NAMES)
def test_key_says_which_object_it_is(name: str) -> None:
    address = parse_address(f"http://store/v1/{quote(name)}", REALMS)

    path = address.key.removeprefix("ickpt/http://store/v1/")
    assert unquote_to_bytes(path).decode() == name
    assert parse_address(address.url, REALMS) == address


@given(text=st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for url in (text, f"http://store/v1/{text}", f"http://{text}/v1/o"):
        try:
            address = parse_address(url, REALMS)
        except HoldfastError:
            continue
        assert address.url.startswith("http://store/v1/")
