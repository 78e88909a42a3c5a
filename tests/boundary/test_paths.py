"""Paths in requests: refused ones have their own error, and odd ones stay unchanged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from actionengine.boundary.errors import PathEscapeError
from actionengine.boundary.files.paths import (
    TEMPORARY_PREFIX,
    ModuleFolder,
    ModulePath,
    module_folder,
    module_path,
    write_denial_reason,
)
from actionengine.errors import ErrorCode
from tests.boundary.traversals import ODD_NAMES, REFUSED


class Named(BaseModel):
    path: ModulePath
    folder: ModuleFolder = ""


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_a_path_that_is_not_a_plain_relative_one_is_refused(text: str) -> None:
    with pytest.raises(PathEscapeError) as refusal:
        module_path(text)

    told = refusal.value.to_dict()
    assert told["code"] == ErrorCode.INVALID_INPUT
    assert told["details"]["refusal"] == "path_escape"
    assert len(told["details"]["path"]) <= 200
    told["message"].encode()


@pytest.mark.parametrize("text", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_an_odd_name_is_given_back_as_it_is(text: str) -> None:
    assert module_path(text) == text


def test_the_lists_are_long_enough_and_tell_nothing_twice() -> None:
    assert len(REFUSED + ODD_NAMES) >= 120
    assert len(set(REFUSED + ODD_NAMES)) == len(REFUSED + ODD_NAMES)


@given(st.text(alphabet=st.sampled_from("./\\~:aC%\0\n\ud800\uff0e\uff0f "), max_size=12) | st.text(max_size=30))
def test_what_passes_has_only_plain_names(text: str) -> None:
    try:
        path = module_path(text)
    except PathEscapeError:
        return

    assert path == text
    path.encode()
    assert "\\" not in path
    assert "\0" not in path
    assert all(name not in ("", ".", "..") for name in path.split("/"))


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20), min_size=1, max_size=10))
def test_letters_and_digits_with_slashes_between_them_pass(names: list[str]) -> None:
    assert module_path("/".join(names)) == "/".join(names)


def test_a_model_lets_the_refusal_through_as_its_own_type() -> None:
    with pytest.raises(PathEscapeError):
        Named.model_validate({"path": "../secret"})
    with pytest.raises(PathEscapeError):
        Named.model_validate({"path": "a", "folder": "/"})

    assert Named(path="a/b", folder=".").folder == ""


@pytest.mark.parametrize("text", ["", "."])
def test_a_folder_may_be_the_root(text: str) -> None:
    assert module_folder(text) == ""


def test_any_other_folder_is_refused_as_a_file_is() -> None:
    for text in set(REFUSED) - {"", "."}:
        with pytest.raises(PathEscapeError):
            module_folder(text)


@pytest.mark.parametrize(
    "name", [".git", ".GIT", ".Git", ".g\u200cit", ".git\ufeff", f"{TEMPORARY_PREFIX}0"], ids=ascii
)
def test_what_is_changed_by_others_alone_has_a_reason(name: str) -> None:
    assert write_denial_reason(name)


@pytest.mark.parametrize("name", [".gitignore", ".github", "git", "a.git", ".gitt"])
def test_what_only_looks_like_it_has_none(name: str) -> None:
    assert write_denial_reason(name) is None


def is_refused(text: str) -> bool:
    try:
        return module_path(text) != text
    except PathEscapeError:
        return True


@pytest.mark.parametrize("text", ["x/" * 500, "ä/" * 500, "/".join(["x" * 199] * 5) + "x"], ids=range(3))
def test_a_path_has_a_thousand_characters_and_no_more(text: str) -> None:
    path = text.strip("/").ljust(1000, "x")
    assert (len(path), is_refused(path), is_refused(path + "x")) == (1000, False, True)


@pytest.mark.parametrize("letter", ["x", "ä", "\uffff", "\U0001f600"], ids=ascii)
@pytest.mark.parametrize("form", ["{}", "a/{}", "{}/a"])
def test_a_name_has_255_bytes_and_no_more(letter: str, form: str) -> None:
    size = len(letter.encode())
    name = letter * (255 // size) + "x" * (255 % size)
    assert (len(name.encode()), is_refused(form.format(name)), is_refused(form.format(name + "x"))) == (
        255,
        False,
        True,
    )


def test_just_control_characters_and_surrogates_are_refused() -> None:
    refused = {each for each in map(chr, range(0x10000)) if each != "/" and is_refused(f"ab{each}b")}

    assert refused == {
        *map(chr, range(0x20)),
        *map(chr, range(0x7F, 0xA0)),
        *map(chr, range(0xD800, 0xE000)),
        "\\",
    }


def test_what_stands_first_can_make_a_path_absolute() -> None:
    first = {each for each in map(chr, range(0x20, 0x7F)) if is_refused(f"{each}a")}
    before_a_colon = {each for each in map(chr, range(0x20, 0x7F)) if is_refused(f"{each}:")}

    letters = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    assert first == {"/", "\\", "~"}
    for text in ("/a", "~", "~a", "C:a"):
        with pytest.raises(PathEscapeError, match="it is absolute"):
            module_path(text)
    assert before_a_colon == letters | {"/", "\\", "~"}
    assert not any(map(is_refused, ["a~", "a/~", "a/~b", "a/C:x", "ab:c", "a/b:c", "ä:x"]))


@pytest.mark.parametrize("part", ["", ".", ".."])
@pytest.mark.parametrize("form", ["{}", "{}/a", "a/{}", "a/{}/b"])
def test_a_part_that_is_no_name_is_refused_wherever_it_stands(part: str, form: str) -> None:
    assert is_refused(form.format(part))
    assert not is_refused(form.format("..."))


def test_git_is_known_by_whatever_a_file_system_leaves_out() -> None:
    unseen = {each for each in map(chr, range(0x80, 0x10000)) if write_denial_reason(f".g{each}it")}

    assert unseen == {
        *"\u200c\u200d\u200e\u200f",
        *"\u202a\u202b\u202c\u202d\u202e",
        *"\u206a\u206b\u206c\u206d\u206e\u206f",
        "\ufeff",
    }
    assert all(map(write_denial_reason, [".giT", "\u200c.GIT", ".git\u206f", TEMPORARY_PREFIX, TEMPORARY_PREFIX + "x"]))
    assert not any(map(write_denial_reason, ["git", ".gi", "x.git", "x" + TEMPORARY_PREFIX, TEMPORARY_PREFIX[:-1]]))
