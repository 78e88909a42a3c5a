"""The status page: a file without data.

The browser asks the routes for the data as the signed-in person, so the page shows what this person may see.
"""

import base64
import hashlib
import re
from pathlib import Path

PAGE = (Path(__file__).parent / "status.html").read_text(encoding="utf-8")


def _hash_of(tag: str) -> str:
    """Return the hash that allows this script or style in the page, and no other."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


PAGE_HEADERS = {
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "content-security-policy": (
        f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
"""Even a title that got into the page as markup could not do anything there."""
