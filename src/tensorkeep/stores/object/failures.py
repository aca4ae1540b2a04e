"""What went wrong with an object: obstore's errors, of many lines, as ours of one with a cure.

Errors are told apart by the names of their classes, the status and the code that a server answered:
a forked process has classes of its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from tensorkeep.errors import (
    ArgumentError,
    MissingError,
    StoreError,
    TensorKeepError,
    UnsafeError,
)

if TYPE_CHECKING:
    from tensorkeep.stores.object.connection import Connection

_T = TypeVar("_T")
_STATUS = re.compile(r"status code: (\d{3})([ A-Za-z-]*)")
_CODE = re.compile(r"<Code>([A-Za-z.]{1,60})</Code>|\"reason\": ?\"(\w{1,60})\"")
_REGIONS = (
    re.compile(r"<Region>([a-z0-9-]{4,30})</Region>"),
    re.compile(r"expecting '([a-z0-9-]{4,30})'"),
    re.compile(r"\.s3[.-]([a-z]{2,3}-[a-z-]+-\d)\.amazonaws"),
)
_URL = re.compile(r"https?://[^\s\")]+")
_LOGIN = re.compile(r"//[^/]*@")
_RETRIES = re.compile(r"after (\d+) retries")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "specified bucket does not exist")
_REFUSED = {
    "InvalidAccessKeyId": "the server does not know the key",
    "SignatureDoesNotMatch": "the secret does not belong to the key",
    "ExpiredToken": "they have expired",
    "ExpiredTokenException": "they have expired",
    "InvalidToken": "the session token is not valid",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "AuthenticationFailed": "the server does not accept them",
}


FIRST_PAUSE = 0.1  # seconds before something is tried again; twice as long before each later try


def failure(error: BaseException, where: str, connection: Connection) -> TensorKeepError:
    """Say in one line what an error means for the object or bucket at `where`, and its cure.

    Errors of ours are given back as they are.
    """
    if isinstance(error, TensorKeepError):
        return error
    text = str(error)
    kind, status = type(error).__name__, status_of(error)
    code = (match[1] or match[2]) if (match := _CODE.search(text)) else ""
    if any(name in text for name in _NO_BUCKET):
        return _no_bucket(where, connection)
    if region := _wrong_region(text, status, code):
        return _region(region, where)
    if "169.254.169.254" in text or "metadata.google.internal" in text or "EKS token" in text:
        return _refused("there are none", where, connection)
    if kind == "FileNotFoundError" or status == 404:
        return MissingError("there is no such object", where=where)
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or status in (401, 403):
        return _refused(_REFUSED.get(code, ""), where, connection)
    if code in _REFUSED:
        return _refused(_REFUSED[code], where, connection)
    if "non-partial response" in text or "RangeNotSupported" in text:
        return StoreError(
            "the server sends the whole object where a part of it was asked for",
            where=where,
            cure="Copy the file here first, or read it whole: tensorkeep.remote(URL, whole=True).",
        )
    if kind == "PreconditionError" or status == 412:
        return StoreError(
            "was replaced while it was read",
            where=where,
            cure="Open it again: the new one is another object.",
        )
    if kind == "UnknownConfigurationKeyError":
        return ArgumentError(
            f"there is no such option: {_line(text)}", where=where, cure="See tensorkeep.remote."
        )
    if kind in ("InvalidPathError", "ValueError") and "parse path" in text:
        return UnsafeError(f"its key cannot be one: {_line(text)}", where=where)
    if kind in ("ValueError", "TypeError"):
        return ArgumentError(f"an option is not what it should be: {_line(text)}", where=where)
    if kind == "NotSupportedError" or status in (405, 501) or code == "NotImplemented":
        return StoreError(
            "the server cannot do what is asked of it", where=where, cure=_answered(text)
        )
    if problem := _unreachable(text):
        return StoreError(
            f"{_server(text, connection)} {problem}{_retried(text)}",
            where=where,
            cure="Look at the endpoint and the network; patience= sets how long it is tried.",
        )
    if status >= 500 or status == 429:
        return StoreError(
            f"the server fails ({_answer(text, code)}){_retried(text)}",
            where=where,
            cure="Try again later; patience= sets how long it is tried.",
        )
    if status:
        return StoreError(f"the server answers {_answer(text, code)}", where=where)
    return StoreError(_line(text), where=where)


def status_of(error: BaseException | None) -> int:
    """Give the status that a server answered; 0 where an error is of another kind."""
    match = _STATUS.search(str(error))
    return int(match[1]) if match else 0


def passes(error: BaseException) -> bool:
    """Say whether an error of obstore's may be gone at the next try, or hide that it was done."""
    status = status_of(error)
    if status == 501:
        return False
    return status >= 500 or status in (408, 409, 429) or (not status and "HTTP error" in str(error))


def again(act: Callable[[], _T], patience: float) -> _T:
    """Do what may be done twice, until it no longer fails in a way that passes or time is over.

    obstore itself repeats neither what is posted nor what breaks off in the middle of an answer.

    Args:
        act: what to do.
        patience: seconds after which the error is given on.
    """
    until, pause = time.monotonic() + patience, FIRST_PAUSE
    while True:
        try:
            return act()
        except Exception as error:
            if not passes(error) or time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


def _no_bucket(where: str, connection: Connection) -> MissingError:
    name = "container" if connection.address.scheme == "az" else "bucket"
    return MissingError(
        f"there is no {name} {connection.address.root!r}",
        where=where,
        cure="Create it first, or look at its name and the endpoint.",
    )


def _wrong_region(text: str, status: int, code: str) -> str | None:
    moved = "without LOCATION" in text or code in ("PermanentRedirect", "TemporaryRedirect")
    named = code in ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
    if not (moved or named or status == 301):
        return None
    for pattern in _REGIONS:
        if match := pattern.search(text):
            return match[1]
    return "unknown"


def _region(region: str, where: str) -> StoreError:
    if region == "unknown":
        return StoreError(
            "the bucket is not in the region that was asked",
            where=where,
            cure="Set AWS_REGION to its region, or give region=....",
        )
    return StoreError(
        f"the bucket is in the region {region}",
        where=where,
        cure=f'Set AWS_REGION={region}, or give region="{region}".',
    )


def _refused(why: str, where: str, connection: Connection) -> StoreError:
    used = connection.credentials
    if "skip_signature" in used.lower():
        cure = "It is not public: leave skip_signature away, and set credentials."
    elif connection.address.http:
        cure = "The address may need a login, or a signature that has expired."
    else:
        cure = (
            "Look at the credentials and their rights; a public bucket needs skip_signature=True."
        )
    problem = "access is refused" + (f" with {used}" if used else "")
    return StoreError(f"{problem}: {why}" if why else problem, where=where, cure=cure)


def _unreachable(text: str) -> str:
    if "HTTP error" not in text and "error sending request" not in text:
        return ""
    if "dns error" in text:
        return "is not known by that name"
    if "Connection refused" in text or "ConnectionRefused" in text:
        return "refuses connections"
    if "certificate" in text.lower():
        return "has a certificate that is not trusted"
    if "kind: Timeout" in text or "TimedOut" in text or "timed out" in text:
        return "did not answer in time"
    if "kind: Connect" in text:
        return "cannot be reached"
    return "broke the connection off"


def _server(text: str, connection: Connection) -> str:
    if match := _URL.search(text):
        return urlsplit(match[0]).netloc.rpartition("@")[2]
    return connection.address.root


def _retried(text: str) -> str:
    match = _RETRIES.search(text)
    return f", tried {int(match[1]) + 1} times" if match and int(match[1]) else ""


def _answer(text: str, code: str) -> str:
    match = _STATUS.search(text)
    told = f"{match[1]}{match[2]}".strip() if match else ""
    return f"{told}, {code}" if code else told


def _answered(text: str) -> str:
    match = _STATUS.search(text)
    return f"It answers {match[1]}{match[2]}.".replace(" .", ".") if match else ""


def _line(text: str) -> str:
    """Give the first line of an error's text, its URLs without what may be secret."""
    line = text.strip().partition("\n")[0].partition(": <?xml")[0]
    line = _URL.sub(lambda match: _LOGIN.sub("//", match[0].partition("?")[0]), line)
    return line if len(line) <= 300 else f"{line[:297]}..."


def refuses(error: BaseException) -> bool:
    """Say whether an error of obstore's means that the server has no such request."""
    return status_of(error) in (405, 501) or "NotImplemented" in str(error)
