"""Who asks, and where: from options, the environment, and the files of AWS's profiles.

obstore reads the environment itself, and asks a machine of the cloud for its own credentials.
AWS's files of profiles and Azure's connection string, which it does not read, are read here. What
profiles say beyond keys (a role, a single sign-on, a program) is asked of boto3 if it is installed.
"""

from __future__ import annotations

import configparser
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from tensorkeep.errors import ArgumentError, MissingDependencyError, StoreError
from tensorkeep.optional import require
from tensorkeep.stores.object.addresses import Address

_OWN = ("cache", "cache_size", "whole", "patience", "concurrency", "client_options", "retry_config")
_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR")
_FRESH = timedelta(minutes=15)  # then a file of keys is read again: tools renew them
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
}
_INDIRECT = {
    "role_arn": "a role to assume",
    "sso_session": "a single sign-on",
    "sso_start_url": "a single sign-on",
    "credential_process": "a program to run",
    "web_identity_token_file": "a web identity",
    "login_session": "a login by browser",
}
_SET = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or say skip_signature=True "
    "for a public bucket."
)


@dataclass(frozen=True, slots=True)
class Found:
    """The configuration of a store."""

    config: Mapping[str, Any]
    endpoint: str = ""
    told: str = ""  # which credentials they are, nothing secret
    provider: Callable[[], Any] | None = None


def environment() -> tuple[tuple[str, str], ...]:
    """Give what of the environment decides how a store is reached."""
    return tuple(sorted(row for row in os.environ.items() if row[0].startswith(_PREFIXES)))


def endpoint(address: Address, options: Mapping[str, Any]) -> str:
    """Give the server that is asked, where it is not the scheme's usual one."""
    for name in ("endpoint", "endpoint_url", "aws_endpoint", "azure_endpoint", "base_url"):
        if options.get(name):
            return str(options[name])
    for name in _ENDPOINTS.get(address.scheme, ()):
        if os.environ.get(name):
            return os.environ[name]
    if address.scheme == "az":
        return _connection_string(options).get("endpoint", "")
    if address.scheme == "s3" and os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") != "true":
        return _profile(options)[1].get("endpoint_url", "")
    return ""


def find(address: Address, options: Mapping[str, Any]) -> Found:
    """Find the configuration of a store.

    Raises:
        ArgumentError: there is no such profile.
        StoreError: there are no credentials.
        MissingDependencyError: a profile needs boto3.
    """
    config = {name: value for name, value in options.items() if name not in _OWN}
    provider = config.pop("credential_provider", None)
    config.pop("profile", None)
    where = endpoint(address, options)
    if where:
        config.pop("endpoint_url", None)
        config["base_url" if address.scheme == "gs" else "endpoint"] = where
        if address.scheme == "gs":
            config.pop("endpoint", None)
    if config.get("skip_signature"):
        return Found(config, where, "no credentials (skip_signature)", provider)
    if provider is not None:
        return Found(config, where, "those of credential_provider", provider)
    if address.scheme == "s3":
        return _aws(address, options, config, where)
    if address.scheme == "az":
        return _azure(address, config, where, options)
    if address.scheme == "gs":
        return Found(config, where, _google(config))
    if config:
        name = min(config)
        raise ArgumentError(f"an address of HTTP has no option {name!r}", where=address.bucket)
    return Found({}, "", "a login in the address" if address.login else "no credentials")


# --- AWS -----------------------------------------------------------------------------------------


def _aws(address: Address, options: Mapping[str, Any], config: dict[str, Any], where: str) -> Found:
    given = {name.removeprefix("aws_"): value for name, value in config.items()}
    name, profile = _profile(options)
    if "region" not in given and not _variable("AWS_REGION", "AWS_DEFAULT_REGION"):
        config["region"] = profile.get("region", "us-east-1")
    if key := given.get("access_key_id"):
        told = f"the key {key} given as an option"
        if not os.environ.get("AWS_SESSION_TOKEN") or given.keys() & {"session_token", "token"}:
            return Found(config, where, told)
        for option in ("access_key_id", "secret_access_key"):  # the token is of another key
            config.pop(option, None)
            config.pop(f"aws_{option}", None)
        secret = given.get("secret_access_key") or os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        keys = {"access_key_id": key, "secret_access_key": secret, "token": None}
        return Found(config, where, told, lambda: {**keys, "expires_at": None})
    if (key := os.environ.get("AWS_ACCESS_KEY_ID")) and not options.get("profile"):
        return Found(config, where, f"the key {key} of AWS_ACCESS_KEY_ID")
    if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"):
        return Found(config, where, "no credentials (AWS_SKIP_SIGNATURE)")
    if os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") and not options.get("profile"):
        return Found(config, where, "the web identity of AWS_WEB_IDENTITY_TOKEN_FILE")
    if profile.get("aws_access_key_id") and "role_arn" not in profile:
        told = f"the key {profile['aws_access_key_id']} of the profile {name!r}"
        return Found(config, where, told, lambda: _keys(options))
    for field_name, what in _INDIRECT.items():
        if field_name in profile:
            told = f"the profile {name!r}, which has {what}"
            return Found(config, where, told, _boto3(name, what, address.bucket))
    if any(variable.startswith("AWS_CONTAINER_CREDENTIALS_") for variable in os.environ):
        return Found(config, where, "those of the container")
    _check_machine(address)
    return Found(config, where, "those of the machine")


def _variable(*names: str) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _profile(options: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Read a profile of AWS's files; an empty one where there is none.

    Raises:
        ArgumentError: one is asked for by name, and there is none.
        StoreError: a file cannot be read.
    """
    asked = str(options.get("profile") or _variable("AWS_PROFILE", "AWS_DEFAULT_PROFILE"))
    name = asked or "default"
    places = {
        os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config": f"profile {name}",
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials": name,
    }
    found: dict[str, str] = {}
    there = False
    for path, title in places.items():
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(os.path.expanduser(path), encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            problem = f"cannot be read: {str(error).splitlines()[0]}"
            raise StoreError(problem, where=path) from None
        for section in {title, name} if name == "default" else {title}:
            if parser.has_section(section):
                there = True
                found |= dict(parser.items(section))
    if asked and not there and (options.get("profile") or not _variable("AWS_ACCESS_KEY_ID")):
        raise ArgumentError(
            f"there is no profile {asked!r} in {' or '.join(places)}",
            cure="Look at AWS_PROFILE, or at the option profile=.",
        )
    return name, found


def _keys(options: Mapping[str, Any]) -> dict[str, Any]:
    profile = _profile(options)[1]
    return {
        "access_key_id": profile.get("aws_access_key_id", ""),
        "secret_access_key": profile.get("aws_secret_access_key", ""),
        "token": profile.get("aws_session_token"),
        "expires_at": datetime.now(UTC) + _FRESH,
    }


def _boto3(name: str, what: str, where: str) -> Callable[[], Any]:
    need = f"the profile {name!r} has {what}, which needs boto3"
    try:
        session = require("boto3", need, "", where).Session(profile_name=name)
    except MissingDependencyError:
        raise MissingDependencyError(
            need,
            where=where,
            cure="Install boto3, or put keys into AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
            "AWS_SESSION_TOKEN (`aws configure export-credentials` prints them).",
        ) from None
    try:
        found = require("obstore.auth.boto3", need, "", where).Boto3CredentialProvider(session)
    except Exception as error:
        problem = f"the profile {name!r} gives no credentials: {str(error).splitlines()[0]}"
        raise StoreError(problem, where=where, cure="Log in again, or look at it.") from error

    def keys() -> Any:
        return found()

    return keys


def _check_machine(address: Address) -> None:
    """Find out fast whether this machine has credentials of its own, which is asked for last.

    Raises:
        StoreError: nothing answers; obstore would try that for a minute.
    """
    server = os.environ.get("AWS_METADATA_ENDPOINT", "http://169.254.169.254")
    parts = urlsplit(server)
    try:
        if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            raise OSError("disabled")
        place = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        socket.create_connection(place, timeout=1).close()
    except (OSError, ValueError):
        raise StoreError("no credentials were found", where=address.bucket, cure=_SET) from None


# --- Azure and Google ----------------------------------------------------------------------------


def _connection_string(options: Mapping[str, Any]) -> dict[str, str]:
    text = str(
        options.get("connection_string") or os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    )
    parts = dict(part.partition("=")[::2] for part in text.split(";") if "=" in part)
    names = {
        "AccountName": "account_name",
        "AccountKey": "account_key",
        "BlobEndpoint": "endpoint",
        "SharedAccessSignature": "sas_key",
    }
    return {ours: parts[theirs] for theirs, ours in names.items() if theirs in parts}


def _azure(
    address: Address, config: dict[str, Any], where: str, options: Mapping[str, Any]
) -> Found:
    config.pop("connection_string", None)
    config = {**_connection_string(options), **config}
    if address.account:
        config["account_name"] = address.account
    emulated = config.get("use_emulator") or _variable("AZURE_STORAGE_USE_EMULATOR")
    account = config.get("account_name") or _variable("AZURE_STORAGE_ACCOUNT_NAME")
    if not account and not emulated:
        raise ArgumentError(
            "the account of the container is not known",
            where=address.bucket,
            cure="Set AZURE_STORAGE_ACCOUNT_NAME, give account_name=, or use "
            "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/KEY.",
        )
    kinds = {
        "account_key": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY"),
        "sas_key": ("AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN"),
        "client_id": ("AZURE_STORAGE_CLIENT_ID", "AZURE_CLIENT_ID"),
    }
    found = [kind for kind, names in kinds.items() if config.get(kind) or _variable(*names)]
    told = f"the {found[0]} of the account {account!r}" if found else f"the account {account!r}"
    if emulated and not where:
        where = "http://127.0.0.1:10000"
    return Found(config, where, told)


def _google(config: Mapping[str, Any]) -> str:
    if path := config.get("service_account") or _variable(
        "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH"
    ):
        return f"the service account of {path}"
    if path := _variable("GOOGLE_APPLICATION_CREDENTIALS"):
        return f"those of {path}"
    return "the default ones of the machine or of gcloud"
