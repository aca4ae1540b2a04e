"""What is said of what goes wrong at a store: one line, with a cure, and nothing secret."""

from __future__ import annotations

import numpy as np
import pytest
from tests.servers.buckets import Server
from tests.servers.faults import Answer, Fault, Hang, Reset
from tests.servers.proxy import Proxy

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.stores.object import ObjectStore


def _xml(code: str, more: str = "") -> bytes:
    return f"<?xml version='1.0'?>\n<Error><Code>{code}</Code>{more}</Error>".encode()


_MOVED = "<Region>eu-west-3</Region>"
_FAULTS: dict[str, tuple[Fault, str]] = {
    "moved": (
        Answer(400, _xml("AuthorizationHeaderMalformed", _MOVED)),
        r"the bucket is in the region eu-west-3. Set AWS_REGION=eu-west-3, or give region=\"eu-w",
    ),
    "redirect": (
        Answer(301, _xml("PermanentRedirect")),
        "not in the region that was asked. Set AWS",
    ),
    "forbidden": (
        Answer(403, _xml("AccessDenied")),
        "access is refused with the key the-key-id given as an option. Look at the credentials",
    ),
    "secret": (
        Answer(403, _xml("SignatureDoesNotMatch")),
        "given as an option: the secret does not belong to the key",
    ),
    "expired": (Answer(400, _xml("ExpiredToken")), "an option: they have expired"),
    "clock": (Answer(403, _xml("RequestTimeTooSkewed")), "the clock of this machine is wrong"),
    "bad": (Answer(400, _xml("InvalidRequest")), r"the server answers 400 Bad Request, InvalidReq"),
    "busy": (
        Answer(503, _xml("SlowDown")),
        r"fails \(503 Service Unavailable, SlowDown\), tried \d",
    ),
    "many": (
        Answer(429),
        r"the server fails \(429 Too Many Requests\), tried \d+ times. Try again",
    ),
    "silent": (Hang(5), r"127.0.0.1:\d+ did not answer in time, tried \d times. Look at the endp"),
    "reset": (Reset(), r"127.0.0.1:\d+ (cannot be reached|broke the connection off), tried \d+ ti"),
}


@pytest.mark.parametrize("name", _FAULTS)
def test_answers(s3: Server, name: str) -> None:
    fault, message = _FAULTS[name]
    bucket = s3.bucket()
    with Proxy(s3.port) as proxy:
        proxy.fail(fault)
        location = tk.remote(
            bucket.through(proxy).url("a/w.npz"), **bucket.through(proxy).options, patience=0.4
        )
        with pytest.raises(errors.StoreError, match=message) as caught:
            tk.open(location)
        text = str(caught.value)
        assert text.startswith(f"{bucket.url('a/w.npz')}: ")
        assert "\n" not in text
        assert bucket.options["secret_access_key"] not in text
        with pytest.raises(errors.StoreError, match=message):
            list(location.store.keys())
        with pytest.raises(errors.StoreError, match=message):
            tk.save({"w": np.ones(3)}, location)


def test_what_is_not_there(s3: Server) -> None:
    bucket = s3.bucket()
    tk.save({"w": np.ones(3)}, tk.remote(bucket.url("a/weights.npz"), **bucket.options))
    message = r"a/weihgts.npz: there is no such object. Did you mean .*/a/weights.npz\?"
    with pytest.raises(errors.MissingError, match=message):
        tk.open(tk.remote(bucket.url("a/weihgts.npz"), **bucket.options))
    message = "there is no bucket 'no-such'. Create it first, or look at its name and the endpoint."
    for use in (
        lambda store: store.get("a.npz"),
        lambda store: list(store.keys()),
        lambda store: store.create("a", b""),
        lambda store: tk.save({"w": np.ones(3)}, tk.Location(store, "w.npz")),
    ):
        with pytest.raises(errors.MissingError, match=message):
            use(ObjectStore("s3://no-such", **bucket.options))
    with pytest.raises(errors.MissingError, match="/b: there are no objects below it"):
        tk.open(tk.remote(bucket.url("b/"), **bucket.options))


def test_a_server_without_conditions_or_lists_of_deletions(s3: Server) -> None:
    bucket = s3.bucket()
    with Proxy(s3.port) as proxy:
        store = ObjectStore(bucket.url(), **bucket.through(proxy).options, patience=1)
        proxy.fail(Answer(501, _xml("NotImplemented")), on="PUT")
        with pytest.raises(
            errors.StoreError, match=r"cannot do what is asked of it. It answers 501"
        ):
            store.create("a", b"1")
        assert not ObjectStore(bucket.url(), **bucket.options).look("a")
        proxy.heal()
        assert store.create("a", b"1")
        assert store.create("b", b"1")
        proxy.fail(Answer(501, _xml("NotImplemented")), on="POST", target="delete")
        store.remove(["a", "none"])
        assert list(store.keys()) == ["b"]
