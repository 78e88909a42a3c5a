# ruff: noqa: E501, RUF001
"""Paths that attackers give: each is refused, or is an odd name that stays inside."""

from __future__ import annotations

REFUSED = (
    # Up, at every place.
    "..", "../", "../secret", "../../secret", "../../../etc/passwd", "a/..", "a/../", "a/../..", "a/../../secret",
    "folder/../../secret", "folder/../inside.txt", "a/b/c/../../../../secret", "./../secret", "./..", "../.",
    "../outside/secret", "../module/inside.txt", "../module-evil/secret", "..//secret", "..///secret", ".././secret",
    "../" * 20 + "etc/passwd", "../" * 300 + "etc/passwd", "a/" * 50 + "../" * 51 + "secret", "folder/..", "x/../x",
    "inside.txt/..", "inside.txt/../../secret", "....//....//../secret", "..././../secret",
    # The results of a filter that removes `../` once.
    "....//secret", "....//....//secret", "..././secret/..", "....//....//....//etc/passwd", "..././..././/secret",
    ".../...//secret", "....//" * 20 + "secret",
    # Not normalised.
    "", ".", "./", "./inside.txt", "inside.txt/.", "folder/./inside.txt", "folder//inside.txt", "folder/", "inside.txt/",
    "a//b", "a///b", "./.", "././", "a/", "a//",
    # Absolute.
    "/", "//", "///", "/etc/passwd", "//etc/passwd", "///etc/passwd", "/../secret", "/./secret", "/proc/self/root/etc",
    "/proc/self/environ", "/dev/stdin", "/dev/fd/0", "//host/share/secret", "//?/C:/secret", "//./pipe/x", "/~", "/.",
    "file:///etc/passwd", "file://localhost/etc/passwd", "http://127.0.0.1/secret", "file:////etc/passwd",
    "php://filter/resource=secret", "zip://inside.txt#secret", "ftp://a//b",
    # Home folders.
    "~", "~/", "~/secret", "~root", "~root/secret", "~+/secret", "~-/secret", "~\\secret", "~nobody/.ssh/id_rsa",
    # Windows: drives, shares, devices, backslashes.
    "C:", "C:/", "c:/secret", "C:\\secret", "C:secret", "C:../secret", "z:x", "Z:\\", "\\", "\\\\", "\\secret", "..\\secret",
    "..\\..\\secret", "a\\..\\..\\secret", "..\\/secret", "../\\secret", "\\\\host\\share\\secret", "\\\\?\\C:\\secret",
    "\\\\?\\UNC\\host\\share", "\\\\.\\pipe\\x", "\\\\.\\PhysicalDrive0", "\\??\\C:\\secret", "folder\\inside.txt", "a\\b",
    "..\\../secret", "..%5c..\\secret", "C:\\..\\secret", "\\..\\secret", "file:\\\\secret", "....\\\\secret",
    # NUL, which ends a path in C, and other control characters.
    "\0", "../secret\0", "../secret\0.txt", "inside.txt\0", "inside.txt\0.png", "inside.txt\0../../secret", "\0../secret",
    "folder\0/inside.txt", "a\nb", "a\rb", "../secret\n", "\t../secret", "a\x1b[2Jb", "a\x7fb", "a\x80b", "a\x9fb", "\x01",
    "..\t/secret", "..\r\n/secret", "inside.txt\n", "\n", "a/\n/b", "\x85",
    # Not encodable in UTF-8.
    "\ud800", "a\udcffb", "\udcc0\udcae\udcc0\udcae/secret", "..\udcc0\udcaf", "\udc2e\udc2e/secret", "x/\udfff",
    # Too long.
    "a" * 256, "a" * 1001, "a/" * 500 + "b", "é" * 128, "folder/" + "a" * 256, "\N{GRINNING FACE}" * 64,
)  # fmt: skip

ODD_NAMES = (
    # Percent-encoded, once and twice: nothing is decoded.
    "%2e%2e", "%2e%2e%2f", "%2e%2e%2fsecret", "%2e%2e/secret", "%2E%2E/%2E%2E/secret", "..%2fsecret", "..%2f..%2fsecret",
    "%2fetc%2fpasswd", "%252e%252e%252fsecret", "%252e%252e/secret", "..%252fsecret", "..%255csecret", "..%5csecret",
    "%5c..%5csecret", "%00", "inside.txt%00.png", "%2e/secret", "%u002e%u002e%u2215secret", "..%u2215secret", "%uff0e%uff0e",
    # Overlong UTF-8 as text.
    "%c0%ae%c0%ae/secret", "%c0%ae%c0%ae%c0%afsecret", "..%c0%afsecret", "%e0%80%ae%e0%80%ae/secret", "..%c1%9csecret",
    "%f0%80%80%ae/secret", "..%e0%80%afsecret", "%fc%80%80%80%80%ae/secret", "..%c1%1csecret", "..%c1%afsecret",
    # Other encodings as text.
    "&#46;&#46;&#47;secret", "&period;&period;&sol;secret", "0x2e0x2e0x2fsecret", "x2e.x2fsecret", "=2E=2E=2Fsecret",
    "+AC4ALgAv-secret", "u002e/u002e/secret", "Li4vc2VjcmV0",
    # Look-alikes.
    "．．／secret", "．．/secret", "．．", "‥/secret", "…/secret", "․․/secret", "..／secret", "..∕secret", "..⁄secret", "﹒﹒/secret",
    "。。/secret", "..⧸secret", "..＼secret", "．/secret", "..﹨secret", "／etc／passwd", "～/secret", "Ｃ：/secret", "..\u00a0/secret",
    # With invisible characters.
    ".\u200b./secret", "..\u200b/secret", "\ufeff../secret", "\u202e../secret", ".\u0301./secret", "..\u2028/secret", ".\u200d.",
    "\u2060../secret", ".\u00ad./secret", "\u200b", "\u2029",
    # Dots and spaces that are not `..`.
    "...", ".../secret", "....", "..../secret", "....../secret", ".. /secret", " ../secret", ". ./secret", "..;/secret",
    "..;a=b/secret", ";..;/secret", "..a/secret", "a../secret", "..../..../secret", "...../secret", ".secret", "..secret", "secret..",
    " ", "  /secret", "a /b", ". ", ".. ", "..?/secret", "..#/secret", "'../secret'/x".replace("../", ".. /"), "*", "?", "*/*",
    # With a meaning in shells, templates or environments.
    "$HOME/secret", "${HOME}/secret", "$(pwd)/secret", "`pwd`/secret", "%HOME%/secret", "%SYSTEMROOT%/win.ini", "-rf", "--",
    "a;b", "a|b", "a&b", "a>b", "a\"b", "a'b", "{a,b}", "[a]", "!x", "#x", "@x", "=x", "a$IFS", "{{7*7}}", "<x>", "a~", "a/~", "a/~root",
    # Windows devices, streams and schemes, which are names here.
    "CON", "nul", "AUX.txt", "COM1", "LPT1/secret", "inside.txt::$DATA", "folder:stream", "file:/secret", "file:secret",
    "a/C:", "a/C:/secret", "PROGRA~1", "git~1/x", "SECRET.", "ab:c",
    # Names of this system without a meaning inside.
    "proc/self/root/etc/passwd", "dev/null", "etc/passwd", "dev/fd/0", "self", "...git/x", ".gitignore", ".github/x", "a.git/x",
    # Of the maximal length.
    "a" * 255, "a/" * 499 + "b", "é" * 127,
)  # fmt: skip
