"""What addresses of objects mean, who is said to ask, and what goes with an address."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers.buckets import KEY_ID, SECRET, Server
from tests.servers.files import FileServer
from tests.servers.proxy import Proxy

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.stores import locate
from tensorkeep.stores.object import ObjectStore, credentials
from tensorkeep.stores.object.addresses import Address, parse_address


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment without credentials, and a home without files."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://b/a/k.npz", Address("s3", "b", "a/k.npz")),
        ("S3A://b/a/", Address("s3", "b", "a", folder=True)),
        ("s3://b", Address("s3", "b", folder=True)),
        ("s3://b/a%20b?c#d", Address("s3", "b", "a%20b?c#d")),
        ("gs://b/ä", Address("gs", "b", "ä")),
        ("az://c/k", Address("az", "c", "k")),
        ("abfss://c@acc.dfs.core.windows.net/k", Address("az", "c", "k", account="acc")),
        ("https://h/a%20b/%C3%A4.npy?s=%2F", Address("https", "h", "a b/ä.npy", query="s=%2F")),
        ("http://u:p@[::1]:80/a/", Address("http", "[::1]:80", "a", folder=True, login="u:p")),
        ("https://b.s3.amazonaws.com/k", Address("https", "b.s3.amazonaws.com", "k")),
    ],
)
def test_parts_of_addresses(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("s3://", errors.ArgumentError, "names no bucket"),
        ("ftp://a/b", errors.ArgumentError, "no address of objects. Use s3://bucket/key"),
        ("s3://KEY:SECRET@bucket/k", errors.ArgumentError, "s3://bucket: has a login"),
        ("https:///k", errors.ArgumentError, "names no server"),
        ("https://[x/k", errors.ArgumentError, "is no URL"),
        ("http://a:99999/k", errors.ArgumentError, "is no URL"),
        ("s3://b/a/../k", errors.UnsafeError, "leads out of the folder"),
        ("s3://b/a//k", errors.UnsafeError, "may not be empty"),
        ("https://h/a/%2e%2e/k", errors.UnsafeError, "leads out of the folder"),
        ("s3://b/a\nb", errors.UnsafeError, "leads out"),
        ("s3://b/" + "k" * 2000, errors.UnsafeError, "2,000 bytes"),
        ("s3://b/\ud800", errors.UnsafeError, "no text"),
        ("s3://b b/k", errors.ArgumentError, "'b b' cannot be the name of a bucket"),
        ("gs://" + "b" * 300, errors.ArgumentError, "cannot be the name of a bucket"),
    ],
)
def test_addresses_that_are_none(text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        parse_address(text)
    assert "SECRET" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for scheme in ("s3", "https", "abfs"):
        try:
            address = parse_address(f"{scheme}://{text}")
        except errors.TensorKeepError:
            continue
        assert parse_address(address.full).path == address.path


def test_what_a_url_means() -> None:
    assert locate("s3://b/run/m.npz").key == "m.npz"
    assert locate("s3://b/run/m.npz").where == "s3://b/run/m.npz"
    assert (locate("gs://b/run/").key, locate("gs://b/run/").where) == ("", "gs://b/run")
    assert locate("https://h/a").key == "a"
    secret = locate("https://me:pass@h/a/w.npz?sig=hidden")
    assert secret.where == "https://h/a/w.npz"
    assert locate(secret.sibling("b.npz")).where == "https://h/a/b.npz"


def test_options_that_are_none() -> None:
    with pytest.raises(errors.ArgumentError, match="HTTP has no option 'region'"):
        tk.open(tk.remote("https://127.0.0.1:1/a.npy", region="x"))
    with pytest.raises(errors.ArgumentError, match=r"no such option.*'regoin'"):
        tk.open(tk.remote("s3://b/a.npy", regoin="x", skip_signature=True))
    for name, value, message in (
        *(
            ("patience", value, "patience has to be a number from")
            for value in (0, 1e300, "5", True)
        ),
        ("patience", float("inf"), "a number from 0.001 to 1,000,000, not inf"),
        ("concurrency", 0.5, "concurrency has to be a number from 1 to 1,000, not 0.5"),
        ("cache", 5, "cache= is the path of a folder"),
        ("cache_size", "1GB", "a cache of None, '1GB' cannot be kept"),
        ("client_options", "x", "client_options has to be a dict, not str"),
        ("retry_config", 5, "retry_config has to be a dict, not int"),
        ("endpoint", "localhost:9", "the endpoint 'localhost:9' is no URL"),
        ("endpoint", "http://me:hidden@a b", "the endpoint 'a b' is no URL"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            tk.open(tk.remote("s3://b/a.npy", skip_signature=True, **{name: value}))


def test_what_is_no_text_is_no_url() -> None:
    for wrong in (None, 5, b"s3://b/a.npy", Path("s3://b/a.npy")):
        with pytest.raises(errors.ArgumentError, match="an address of objects is a str"):
            tk.remote(wrong)  # type: ignore[arg-type]
    with pytest.raises(errors.ArgumentError, match=r"'s3:/b/a\.npy' was an URL, before a Path"):
        tk.save({"w": np.ones(3)}, Path("s3://b/a.npy"))


# --- who asks ------------------------------------------------------------------------------------


def found(url: str = "s3://b", **options: Any) -> credentials.Found:
    return credentials.find(parse_address(url), options)


def test_no_credentials_are_missed_at_once() -> None:
    with pytest.raises(errors.StoreError, match=r"s3://b: no credentials were found. Set AWS_AC"):
        tk.open("s3://b/a.npy")
    assert found(skip_signature=True).told == "no credentials (skip_signature)"


def test_a_session_belongs_to_its_key(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the environment does not go with a key that is given as an option."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-key")
    bucket = s3.bucket()
    for options, sent in (({}, None), ({"session_token": "mine"}, "mine")):
        with Proxy(s3.port) as proxy:
            store = ObjectStore(bucket.url(), **bucket.through(proxy).options, **options)
            assert store.look("a") is None
            assert proxy.seen[0].headers.get("x-amz-security-token") == sent
            assert KEY_ID in proxy.seen[0].headers["authorization"]


def test_profiles(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / "config").write_text(
        "[default]\nregion = eu-west-1\n[profile lab]\nregion = eu-west-3\n"
        "endpoint_url = http://localhost:9\n"
    )
    (bare / "credentials").write_text(
        "[default]\naws_access_key_id = AK0\naws_secret_access_key = s0\n"
        "[lab]\naws_access_key_id = AK1\naws_secret_access_key = s1\naws_session_token = t1\n"
    )
    usual = found()
    assert (usual.config["region"], usual.endpoint) == ("eu-west-1", "")
    assert usual.told == "the key AK0 of the profile 'default'"
    monkeypatch.setenv("AWS_PROFILE", "lab")
    lab = found()
    assert (lab.config["region"], lab.endpoint) == ("eu-west-3", "http://localhost:9")
    assert lab.provider is not None
    keys = lab.provider()
    assert (keys["access_key_id"], keys["secret_access_key"], keys["token"]) == ("AK1", "s1", "t1")
    (bare / "credentials").write_text("[lab]\naws_access_key_id = AK2\n")
    assert lab.provider()["access_key_id"] == "AK2"  # a tool that renews them is followed
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://store")
    assert "region" not in found().config  # obstore reads it
    assert found().endpoint == "https://store"
    assert found(endpoint="https://mine").endpoint == "https://mine"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK9")
    assert found().told == "the key AK9 of AWS_ACCESS_KEY_ID"
    assert "AK2" in found(profile="lab").told  # what is asked for by name goes before
    assert "AK7" in found(access_key_id="AK7").told


def test_profiles_that_cannot_be_used(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        errors.ArgumentError, match=r"no profile 'lab' in .*config or .*credentials"
    ):
        found(profile="lab")
    (bare / "config").write_text("[profile boss]\nrole_arn = arn:x\nsource_profile = lab\n")
    with monkeypatch.context() as without:
        without.setitem(__import__("sys").modules, "boto3", None)
        with pytest.raises(errors.MissingDependencyError, match="has a role to assume, which need"):
            found(profile="boss")
    (bare / "config").write_text("no ini file\n")
    with pytest.raises(errors.StoreError, match="config: cannot be read"):
        found()


def test_azure_and_google(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        errors.ArgumentError, match=r"az://c: the account .* is not known. Set AZURE"
    ):
        found("az://c")
    named = found("abfss://c@acc.dfs.core.windows.net/k")
    assert (named.config["account_name"], named.told) == ("acc", "the account 'acc'")
    text = "DefaultEndpointsProtocol=http;AccountName=me;AccountKey=a2V5==;BlobEndpoint=http://x/me"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    azure = found("az://c")
    assert azure.endpoint == "http://x/me"
    assert (azure.config["account_key"], azure.told) == (
        "a2V5==",
        "the account_key of the account 'me'",
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/k.json")
    assert found("gs://b").told == "those of /k.json"


def test_a_connection_by_profile(s3: Server, bare: Path) -> None:
    bucket = s3.bucket()
    (bare / "config").write_text(f"[default]\nregion=us-east-1\nendpoint_url={bucket.endpoint}\n")
    (bare / "credentials").write_text(
        f"[default]\naws_access_key_id={KEY_ID}\naws_secret_access_key={SECRET}\n"
    )
    with Proxy(s3.port) as proxy:
        tk.save(
            {"w": np.ones(3)},
            tk.remote(bucket.url("w.npz"), endpoint=bucket.through(proxy).endpoint),
        )
        signed = proxy.requests("PUT")[0].headers["authorization"]
    assert f"Credential={KEY_ID}/" in signed
    assert tk.load(bucket.url("w.npz"))["w"].sum() == 3


# --- what goes with an address -------------------------------------------------------------------


def test_http_addresses(http: FileServer, tmp_path: Path) -> None:
    tk.save({"w": np.ones(3)}, tmp_path / "w.safetensors")
    http.files["a b/w+ä%.safetensors"] = (tmp_path / "w.safetensors").read_bytes()
    with Proxy(http.port) as proxy:
        url = http.url("a b/w+ä%.safetensors").replace(str(http.port), str(proxy.port))
        assert tk.load(f"{url}?X-Sig=a%2Fb&x=1")["w"].sum() == 3
        assert {seen.target.partition("?")[2] for seen in proxy.seen} == {"X-Sig=a%2Fb&x=1"}
    store = locate(http.url("a b/none")).store
    assert list(store.keys()) == list(store.keys("w")) == []
    assert list(store.keys("w+ä%.safetensors")) == ["w+ä%.safetensors"]
    for change in (
        lambda: tk.save({"w": np.ones(3)}, http.url("w.npz")),
        lambda: store.delete("a"),
        lambda: ObjectStore(http.url()).create("a", b""),
        lambda: store.draft("a"),
    ):
        with pytest.raises(errors.ArgumentError, match="read over HTTP, which cannot be written"):
            change()


def test_a_store_can_be_pickled(s3: Server) -> None:
    bucket = s3.bucket()
    location = tk.remote(bucket.url("run/w.npz"), **bucket.options)
    tk.save({"w": np.ones(3)}, location)
    assert location.source.size  # what was opened stays behind
    again = pickle.loads(pickle.dumps(location))
    assert tk.load(again)["w"].sum() == 3
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(_total, (location,)) == 3


def _total(location: tk.Location) -> float:
    return float(tk.load(location)["w"].sum())


def test_a_forked_child_makes_a_connection_of_its_own(s3: Server) -> None:
    bucket = s3.bucket()
    location = tk.remote(bucket.url("w.npz"), **bucket.options)
    tk.save({"w": np.ones(3)}, location)
    with tk.open(location) as state:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            ok = state["w"].numpy().sum() == 3 and _total(location) == 3
            tk.save({"w": np.zeros(3)}, tk.remote(bucket.url("child.npz"), **bucket.options))
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(0 if _total(location) == 3 else 1)
            os._exit(0 if ok and os.waitpid(grandchild, 0)[1] == 0 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert _total(location) == 3
    assert _total(tk.remote(bucket.url("child.npz"), **bucket.options)) == 0


def test_names_without_an_ending(s3: Server) -> None:
    bucket = s3.bucket()
    tk.save({"w": np.ones(3)}, tk.remote(bucket.url("run/step-00000012/w.npz"), **bucket.options))

    def means(key: str) -> tuple[str, str]:
        location = tk.remote(bucket.url(key), **bucket.options)
        return location.where.removeprefix(bucket.url()), location.key

    assert means("run") == ("/run", "")
    assert means("run/step-12") == ("/run/step-00000012", "")
    assert means("run/none") == ("/run/none", "none")
    ObjectStore(bucket.url("run"), **bucket.options).create("none", b"1")
    assert means("run/none") == ("/run/none", "none")


def test_a_port_where_nobody_answers_is_told_fast() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    location = tk.remote(f"http://127.0.0.1:{port}/a.npy", patience=0.5)
    with pytest.raises(errors.StoreError, match=rf"127.0.0.1:{port} refuses connections"):
        tk.open(location)
