"""Errors of Google's client library, and what they mean to a person."""

from __future__ import annotations

import re
from http import HTTPStatus
from http.client import responses
from typing import Any

from ..core.errors import MissingDependency

_PERMISSION = re.compile(r"storage\.[a-z]+\.[a-zA-Z]+")


def google_errors() -> Any:
    """Return the exception module of the client library.

    Raises:
        MissingDependency: google-cloud-storage is not installed.
    """
    try:
        from google.api_core import exceptions
    except ImportError:
        raise missing() from None
    return exceptions


def missing() -> MissingDependency:
    """Return the error that names the pip command of the client library."""
    return MissingDependency(
        "stores on Google Cloud Storage need google-cloud-storage; pip install 'quanttaas-jupyter[gcs]'"
    )


def is_session_lost(error: Exception) -> bool:
    """Return whether an upload has to start over."""
    if isinstance(error, ValueError):
        # Google stored only a part of a chunk, which the client library reports as an error of the stream.
        return "unexpected state" in str(error)
    return getattr(error, "code", None) in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.PERMANENT_REDIRECT)


def is_damaged(error: Exception) -> bool:
    """Return whether bytes differ from their checksum; the error's class moved between library versions."""
    return type(error).__name__ == "DataCorruption"


def reason(error: Exception, bucket: str, seconds: float) -> str | None:
    """Return what went wrong and what to do, without secrets; None if the error is not of Google's library."""
    from google.api_core.exceptions import Forbidden, GoogleAPICallError, RetryError, Unauthorized
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, RefreshError
    from google.cloud.storage.retry import DEFAULT_RETRY
    from requests.exceptions import RequestException

    # Some versions of the library raise the last failure itself once the time is over.
    if isinstance(error, RetryError | RequestException) or DEFAULT_RETRY._predicate(error):
        cause = error.cause if isinstance(error, RetryError) else error
        return (
            f"Google Cloud Storage gave no good answer for {seconds:.0f} s ({_last_word(cause)}); "
            "check the network and try again"
        )
    if isinstance(error, DefaultCredentialsError | RefreshError | Unauthorized):
        return (
            "there are no valid credentials; run gcloud auth application-default login, or let "
            "GOOGLE_APPLICATION_CREDENTIALS name the key of a service account"
        )
    if isinstance(error, GoogleAuthError):
        return f"Google's sign-in failed ({type(error).__name__}); check the network and try again"
    if isinstance(error, Forbidden):
        permission = _PERMISSION.search(_said(error))
        lacking = f"the account lacks {permission[0]}" if permission else "the account has no permission"
        return f"{lacking} on {bucket}; grant it roles/storage.objectUser there"
    if isinstance(error, GoogleAPICallError):
        return f"Google Cloud Storage answered {error.code}: {_said(error) or 'no reason given'}"
    if is_damaged(error):
        return "what arrived differs from its checksum; try again"
    if isinstance(error, OSError):
        return f"{error.strerror or error}; check the disk of this machine"
    return None


def _last_word(error: Any) -> str:
    code = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return f"{int(code)} {responses.get(int(code), '')}".strip() if code else type(error).__name__


def _said(error: Any) -> str:
    """Return Google's own error message without the request's address, or an empty string."""
    try:
        return str(error.response.json()["error"]["message"])
    except (AttributeError, LookupError, TypeError, ValueError):
        return ""
