"""JSON objects of any size: read entry by entry, looked up by where an entry lies."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regionr1.data.readers import json_object, key_index
from regionr1.data.readers.json_object import JsonObject
from regionr1.errors import UserError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    value=st.dictionaries(st.text(max_size=9), JSON, max_size=6),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
)
def test_any_object_in_any_pieces(tmp_path, value, chunk, indent, ascii_only) -> None:
    path = tmp_path / "o.json"
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_object, "CHUNK", chunk)
        whole = JsonObject(path, "the object")
        assert list(whole.items()) == list(value.items())
        assert len(whole) == len(value)
        assert list(whole.index.keys()) == list(value)
        assert all(whole.get(key) == entry for key, entry in value.items())
    assert whole.get("no such key of at most nine letters") is None


def test_keys_are_compared_exactly(tmp_path) -> None:
    path = tmp_path / "kb.json"
    path.write_text('{"https://en.wikipedia.org/wiki/Mus%C3%A9e_Rodin": 1}')
    kb = JsonObject(path, "the knowledge base")
    assert "https://en.wikipedia.org/wiki/Mus%C3%A9e_Rodin" in kb
    for other in ("Mus\u00e9e_Rodin", "Mus%c3%a9e_Rodin", "Mus%C3%A9e_rodin"):
        assert f"https://en.wikipedia.org/wiki/{other}" not in kb


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": {"b": 1}, "c": {"d"', "not valid JSON near byte 21 .*truncated"),
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
        (b'{"a": 1} {"b": 2}', "more text after the object"),
        (b'{"a" 1}', "expected ':'"),
        (b'{"a": 1 "b": 2}', "expected ',' or '}'"),
        (b"{1: 2}", "expected a key in quotes"),
        (b"[1]", "must be a JSON object"),
        (b"", "must be a JSON object"),
        (b'{"\xff": 1}', "not UTF-8"),
        (b'{"a": "\xc3', "not UTF-8"),
    ],
)
def test_broken_files(tmp_path, text, message) -> None:
    path = tmp_path / "o.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=message):
        len(JsonObject(path, "the object"))
    with pytest.raises(UserError, match=r"gone\.json: the object is missing"):
        list(JsonObject(tmp_path / "gone.json", "the object").items())


def test_a_lost_quote_does_not_read_the_whole_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(json_object, "CHUNK", 100)
    monkeypatch.setattr(json_object, "MAX_ENTRY", 1000)
    path = tmp_path / "o.json"
    path.write_text('{"a": "lost, ' + "x" * 100_000)
    longest = 0
    real = json_object._Scanner._read

    def read(self) -> None:
        nonlocal longest
        real(self)
        longest = max(longest, len(self.text))

    monkeypatch.setattr(json_object._Scanner, "_read", read)
    with pytest.raises(UserError, match="not valid JSON"):
        list(JsonObject(path, "the object").items())
    assert longest <= 1200


def test_the_index_is_built_once_and_again_when_the_file_changes(tmp_path, monkeypatch) -> None:
    path = tmp_path / "kb.json"
    path.write_text('{"a": {"x": 1}, "b": {"x": 2}}')
    first = JsonObject(path, "the knowledge base", in_memory_below=0)
    assert first.get("b") == {"x": 2} and len(first) == 2
    beside = path.with_name("kb.json" + key_index.SUFFIX)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kb.json", beside.name]
    with monkeypatch.context() as patch:
        patch.setattr(json_object, "scan_object", lambda *_: pytest.fail("read again"))
        assert JsonObject(path, "the knowledge base", in_memory_below=0).get("a") == {"x": 1}
    path.write_text('{"a": {"x": 1}, "b": {"x": 2}, "c": 3}')
    assert len(JsonObject(path, "the knowledge base", in_memory_below=0)) == 3
    beside.write_bytes(b"damaged")
    assert len(JsonObject(path, "the knowledge base", in_memory_below=0)) == 3


def test_a_build_that_fails_leaves_no_index(tmp_path) -> None:
    path = tmp_path / "kb.json"
    path.write_text('{"a": 1, "b": ')
    with pytest.raises(UserError, match="truncated"):
        len(JsonObject(path, "the knowledge base", in_memory_below=0))
    assert [p.name for p in tmp_path.iterdir()] == ["kb.json"]
