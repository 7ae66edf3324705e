"""Addresses of databases and servers: any folder's name is taken literally, and nobody's password is shown."""

import re
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from autoreap.errors import InputError

_LEAST_NAME, _LEAST_PASSWORD = 2, 3  # characters; what is shorter would be found everywhere
# `scheme://user:password@host` in any text, such as an error of a driver or of an HTTP library.
_WHO = re.compile(r"(?<=://)[^\s/@]*(?:@[^\s/@]*)*@")
_SECRET_ARGUMENT = re.compile(r"(?i)([\w.-]*(?:user|passw|pwd|token|secret|key)[\w.-]*=)[^\s&;,'\"]+")
_NAMED_USER = re.compile(r"(?i)\b((?:user|role|login)(?: name)?:? ['\"])[^'\"]+(?=['\"])")


def sqlite_url(path: Path, driver: str = "sqlite") -> str:
    """The URL of the database in the file `path`: a `?`, `%` or `#` in the name of a folder is part of the name."""
    return URL.create(driver, database=str(path)).render_as_string()


def sqlite_file(url: str) -> Path | None:
    """The file that the URL of an SQLite database names; None for any other address.

    Raises:
        InputError: a part of the path would be taken for arguments.
    """
    if not url.startswith("sqlite"):
        return None
    try:
        parsed = make_url(url)
    except ArgumentError:
        return None
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    # SQLAlchemy cuts a path at its `?` and opens another file, without a word.
    after = url.partition("?")[2]
    if "/" in after.partition("=")[0] or (after and not parsed.query):
        raise InputError("what follows a `?` is no part of the path", where=url, fix="write it as %3F")
    if str(parsed.query.get("uri", "")).lower() in ("true", "1"):
        return None  # SQLite's own kind of address, which says where the file is by itself
    return Path(parsed.database)


def public_url(url: str) -> str:
    """The URL without its user and password: messages end up in logs."""
    return without_secrets(url, url)


def without_secrets(text: str, url: str = "") -> str:
    """`text` without what says who signs in: in an address, by a driver that names the user, or from `url`."""
    text = _WHO.sub("***@", text)
    text = _SECRET_ARGUMENT.sub(r"\1***", text)
    text = _NAMED_USER.sub(r"\1***", text)
    # What no pattern finds: a driver may repeat user and password in words of its own.
    name, password = _sign_in(url)
    for secret in password:
        text = text.replace(secret, "***")
    for secret in name:  # a user is often a short word, which may be part of another one
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return text


def _sign_in(url: str) -> tuple[list[str], list[str]]:
    """User and password of `url`, each as it is written there and decoded, longest first."""
    try:
        parsed = make_url(url)
    except ArgumentError:  # an address of another kind, or none at all
        return [], []
    found = []
    for value, least in ((parsed.username, _LEAST_NAME), (parsed.password, _LEAST_PASSWORD)):
        # The longest form first: a shorter one may be a part of it, and would leave the rest to be read.
        forms = {str(value or ""), quote(str(value or "")), quote(str(value or ""), safe="")}
        found.append(sorted((form for form in forms if len(form) >= least), key=len, reverse=True))
    return found[0], found[1]
