"""JSON objects of any size, read entry by entry."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regionr1.data.readers import json_object
from regionr1.data.readers.json_object import scan_object
from regionr1.data.readers.key_index import KeyIndex
from regionr1.errors import UserError

INTEGERS = st.integers(-(2**63) + 1, 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | INTEGERS
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    value=st.dictionaries(st.text(max_size=9), JSON, max_size=6),
    buffer=st.integers(1, 40),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
    start=st.sampled_from([b"", b"\xef\xbb\xbf", b" \n"]),
)
def test_any_object_in_any_pieces(tmp_path, value, buffer, indent, ascii_only, start) -> None:
    path = tmp_path / "o.json"
    path.write_bytes(start + json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_object, "BUFFER", buffer)
        found = list(scan_object(path, "the object"))
    assert found == list(value.items())
    assert json.dumps(dict(found)) == json.dumps(value)  # 1 is not 1.0


def test_keys_are_compared_exactly(tmp_path) -> None:
    path = tmp_path / "kb.json"
    path.write_text('{"https://en.wikipedia.org/wiki/Mus%C3%A9e_Rodin": "1"}')
    kb = KeyIndex(path, "the knowledge base", lambda: scan_object(path, "the knowledge base"))
    assert "https://en.wikipedia.org/wiki/Mus%C3%A9e_Rodin" in kb
    for other in ("Mus\u00e9e_Rodin", "Mus%c3%a9e_Rodin", "Mus%C3%A9e_rodin"):
        assert f"https://en.wikipedia.org/wiki/{other}" not in kb


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": {"b": 1}, "c": {"d"', r"not valid JSON within its first 25 bytes .*truncated"),
        (b'{"a": 1} {"b": 2}', "trailing garbage"),
        (b'{"a" 1}', "must be separated by a colon"),
        (b'{"a": 1 "b": 2}', r"I expect ',' or '}'"),
        (b"{1: 2}", "invalid object key"),
        (b'{"a": 9223372036854775808}', "integer overflow"),
        (b"[1]", "must be a JSON object"),
        (b"", "must be a JSON object"),
        (b'{"\xff": 1}', "not UTF-8"),
        (b'{"a": "\xc3', "not UTF-8"),
    ],
)
def test_broken_files(tmp_path, text, message) -> None:
    path = tmp_path / "o.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=message) as caught:
        list(scan_object(path, "the object"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"gone\.json: the object is missing"):
        list(scan_object(tmp_path / "gone.json", "the object"))


def test_a_lost_quote_does_not_read_the_whole_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(json_object, "BUFFER", 100)
    monkeypatch.setattr(json_object, "MAX_ENTRY", 1000)
    path = tmp_path / "o.json"
    path.write_text(json.dumps({str(n): "x" * 500 for n in range(20)}))
    assert len(list(scan_object(path, "the object"))) == 20  # it counts anew for every entry
    path.write_text('{"a": "lost, ' + "x" * 100_000)
    with pytest.raises(UserError, match=r"first 1,\d\d\d bytes \(an entry of more than 1,000"):
        list(scan_object(path, "the object"))
