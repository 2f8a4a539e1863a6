"""Files of settings and tables that a person may have edited."""

import pytest

from geolib.runtime.here import parsed_file


def test_a_file_is_read_by_its_suffix_and_a_broken_one_named(tmp_path):
    yaml, json = ("a.yaml", b"a: [1"), ("a.json", b"{")
    for name, text in (yaml, ("a.yaml", b"a: \xe9"), json, ("a.json", b"<html>")):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(ValueError, match=f"{name} cannot be read: "):
            parsed_file(tmp_path / name)
    (tmp_path / "a.yaml").write_text("a: ['日本']", encoding="utf-8")
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert parsed_file(tmp_path / "a.yaml") == {"a": ["日本"]}
    assert parsed_file(tmp_path / "a.json") == {"a": [1]}
