"""A unified diff applies to the text from which it was created, and to no other."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionengine.boundary.files.unified_diff import apply_diff, changed_lines, check_diff, unified_diff
from actionengine.errors import ActionError, ErrorCode

ODD_LINES = (
    *("", "a", "b", " c", "\tindented", "-- x", "++ y", "- x", "+++ b/x", "--- a/x", "@@ -1 +1 @@", "\\ No newline"),
    *("diff --git a/x b/x", "index 1..2 100644", "ends\r", "\r", "page\x0cbreak", "line\u2028separator", "n\x85el"),
    *("new file mode 100644", "Binary files a/x and b/x differ", "GIT binary patch", "\x1c", "-- "),
)
texts = st.builds(
    lambda lines, ended: "\n".join(lines) + ("\n" if ended and lines else ""),
    st.lists(st.sampled_from(ODD_LINES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=25),
    st.booleans(),
)
files = st.none() | texts


def refusal(before: str | None, diff: str, path: str = "x") -> ActionError:
    with pytest.raises(ActionError) as caught:
        apply_diff(before, diff, path)
    assert caught.value.code is ErrorCode.UNPROCESSABLE
    return caught.value


@settings(max_examples=200, deadline=None)
@given(before=files, after=files)
def test_a_diff_makes_of_one_text_the_other(before: str | None, after: str | None) -> None:
    diff = unified_diff(before, after, "x")

    assert (diff == "") == (before == after)
    if diff:
        assert apply_diff(before, diff, "x") == after


@settings(max_examples=150, deadline=None)
@given(before=texts, after=texts, now=texts)
def test_a_diff_fits_where_its_lines_stand_or_is_refused(before: str, after: str, now: str) -> None:
    diff = unified_diff(before, after, "x")
    if not diff:
        return

    try:
        made = apply_diff(now, diff, "x")
    except ActionError:
        assert now != before
        return

    assert made is not None
    assert len(made.split("\n")) - len(now.split("\n")) == len(after.split("\n")) - len(before.split("\n"))


@settings(deadline=None)
@given(text=st.text() | st.lists(st.sampled_from(ODD_LINES)).map("\n".join), before=files)
def test_whatever_is_given_for_a_diff_it_applies_or_is_refused(text: str, before: str | None) -> None:
    with suppress(ActionError):
        apply_diff(before, text, "x")


def git_diff(folder: Path, before: str, after: str, name: str = "x") -> str:
    for side, text in (("a", before), ("b", after)):
        (folder / side / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / side / name).write_bytes(text.encode())
    command = ["git", "diff", "--no-index", "--no-prefix", "--text", "--no-color", f"a/{name}", f"b/{name}"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return ran.stdout.decode()


def test_what_git_makes_applies(tmp_path: Path) -> None:
    @settings(max_examples=25, deadline=None, database=None)
    @given(before=texts, after=texts)
    def check(before: str, after: str) -> None:
        diff = git_diff(tmp_path, before, after)
        if diff.count("\n@@"):
            assert apply_diff(before, diff, "x") == after

    check()


def test_what_is_made_here_git_applies(tmp_path: Path) -> None:
    @settings(max_examples=25, deadline=None, database=None)
    @given(before=texts, after=texts)
    def check(before: str, after: str) -> None:
        diff = unified_diff(before, after, "x")
        if not diff:
            return
        (tmp_path / "x").write_bytes(before.encode())
        subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], cwd=tmp_path, input=diff.encode(), check=True)
        assert (tmp_path / "x").read_bytes() == after.encode()

    check()


@pytest.mark.parametrize("name", ["a b.txt", "straße.txt", 'quo"te.txt', "a/b/c.txt"], ids=range(4))
def test_gits_spelling_of_a_name_is_understood(tmp_path: Path, name: str) -> None:
    diff = git_diff(tmp_path, "old\n", "new\n", name)

    assert apply_diff("old\n", diff, name) == "new\n"
    assert apply_diff("old\n", unified_diff("old\n", "new\n", name), name) == "new\n"
    refusal("old\n", diff, "other.txt")


def test_a_hunk_that_does_not_fit_is_told_with_its_lines() -> None:
    before = "".join(f"{number}\n" for number in range(1, 41))
    after = before.replace("5\n", "five\n", 1).replace("30\n", "thirty\n")
    now = before.replace("30\n", "XXX\n")

    error = refusal(now, unified_diff(before, after, "x"))

    assert (error.details["hunk"], error.details["header"]) == (2, "@@ -27,7 +27,7 @@")
    assert error.details["expected"] == [f"{number}\n" for number in range(27, 34)]
    assert error.details["found"] == ["27\n", "28\n", "29\n", "XXX\n", "31\n", "32\n", "33\n"]
    assert "hunk 2 (@@ -27,7 +27,7 @@)" in error.message


def test_a_hunk_that_would_fit_elsewhere_is_refused() -> None:
    diff = unified_diff("a\nb\n", "a\nB\n", "x")

    assert refusal("new first line\na\nb\n", diff).details["hunk"] == 1


@pytest.mark.parametrize(
    ("before", "diff"),
    [
        ("a\n", "--- a/y\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n"),
        ("a\n", "--- a/x\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n"),
        ("a\n", "--- a/dir/x\n+++ b/dir/x\n@@ -1 +1 @@\n-a\n+b\n"),
        ("a\n", "--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n"),
        ("a\n", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n--- a/y\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n"),
        ("a\n", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n+c\n"),
        ("a\nb\n", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+c\n-b\n"),
        ("a\nb\n", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+c\n b\n"),
        ("a\n", "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n-a\n+b\n"),
        ("a\n", f"--- a/x\n+++ b/x\n@@ -{'1' * 5000} +1 @@\n-a\n+b\n"),
        ("a\n", "--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+b\n"),
        (None, "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"),
        (None, "--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+b\n"),
        ("a\nb\n", "--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n"),
        ("a\nb\n", "--- a/x\n+++ b/x\n@@ -2 +2 @@\n-b\n+B\n@@ -1 +1 @@\n-a\n+A\n"),
        ("a\nb\n", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+A\n\\ No newline at end of file\n"),
        ("a", "--- a/x\n+++ b/x\n@@ -1,0 +2 @@\n+b\n"),
        ("a", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"),
        ("a\n", "--- a/x\n+++ b/x\n@@ -5,0 +6 @@\n+b\n"),
        ("a\n", "diff --git a/x b/x\nold mode 100644\nnew mode 120000\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"),
        ("a\n", "diff --git a/x b/y\nrename from x\nrename to y\n"),
        ("a\n", "no diff"),
        ("a\n", ""),
    ],
    ids=range(23),
)
def test_a_diff_that_is_not_wholly_this_files_is_refused(before: str | None, diff: str) -> None:
    refusal(before, diff)


def test_what_mail_adds_behind_a_diff_is_left_aside() -> None:
    diff = "From 12 Mon Sep 17\nSubject: x\n\n---\n x | 2 +-\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n-- \n2.39.5\n\n"

    assert apply_diff("a\n", diff, "x") == "b\n"


def test_a_diff_whose_last_line_lost_its_end_applies() -> None:
    assert apply_diff("a\n", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b", "x") == "b\n"


def test_a_diff_of_two_long_texts_is_made_in_bounded_work() -> None:
    before = "".join(f"{number * 7919 % 9001}\n" for number in range(9000))
    after = "".join(f"{number * 7907 % 9001}\n" for number in range(9000))

    diff = unified_diff(before, after, "x")

    assert apply_diff(before, diff, "x") == after
    assert diff.count("\n@@") == 1


def test_a_check_takes_diffs_that_change_lines() -> None:
    diff = unified_diff("a\nb\n", "c\nd\nb\n", "x")

    assert check_diff(diff) == diff
    assert changed_lines(diff) == (2, 1)
    with pytest.raises(ValueError, match="adds and removes no line"):
        check_diff("--- a/x\n+++ b/x\n")
