"""Base class of all routes: authorization, validation of requests, and error responses."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeVar

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from pydantic import BaseModel, ValidationError
from tornado import web

from ..core.errors import ClusterError, MissingDependency, NotFound, NotTrusted, QuantTaaSError, StoreError, StudyIsBusy
from .study_reader import StudyReader

M = TypeVar("M", bound=BaseModel)

_STATUS: tuple[tuple[type[QuantTaaSError], HTTPStatus], ...] = (
    (NotFound, HTTPStatus.NOT_FOUND),
    (NotTrusted, HTTPStatus.CONFLICT),
    (StudyIsBusy, HTTPStatus.CONFLICT),
    (MissingDependency, HTTPStatus.CONFLICT),
    (StoreError, HTTPStatus.SERVICE_UNAVAILABLE),
    (ClusterError, HTTPStatus.BAD_GATEWAY),
)
_SENTENCES = {
    HTTPStatus.FORBIDDEN: "The server does not let you do this: sign in again, then reload the page.",
    HTTPStatus.NOT_FOUND: "The server has nothing at this address, or does not take requests from this page.",
    HTTPStatus.METHOD_NOT_ALLOWED: "The server does not do this at this address.",
}


class Refused(QuantTaaSError):
    """The request cannot be carried out at present; ``insert`` is code that does it in the notebook instead."""

    def __init__(self, message: str, insert: str = "", needs_trust: bool = False) -> None:
        super().__init__(message)
        self.insert, self.needs_trust = insert, needs_trust


class Handler(APIHandler):
    """Base class of routes; errors are JSON with ``message`` (one sentence), ``insert`` and ``needs_trust``."""

    auth_resource = "quanttaas"
    # The panel polls every few seconds; that is no user activity, and must not keep an idle server running.
    _track_activity = False

    def initialize(self, reader: StudyReader) -> None:
        """Take the reader of studies that all routes share."""
        self.reader = reader

    def body(self, model: type[M]) -> M:
        """Return the validated body of the request.

        Raises:
            QuantTaaSError: The body is malformed.
        """
        return _checked(model, self.get_json_body() or {})

    def query(self, model: type[M]) -> M:
        """Return the validated query of the request; parameters that are not in the model are ignored.

        Raises:
            QuantTaaSError: A parameter is malformed.
        """
        given = {name: self.get_query_argument(name, None) for name in model.model_fields}
        return _checked(model, {name: value for name, value in given.items() if value is not None})

    def refuse(self, status: int, message: str, insert: str = "", needs_trust: bool = False) -> None:
        """Answer with an error response."""
        self.set_status(status)
        self.finish({"message": message, "insert": insert, "needs_trust": needs_trust})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer errors that no route handled, without a traceback."""
        error = kwargs.get("exc_info", (None, None))[1]
        said = error.log_message if isinstance(error, web.HTTPError) else None
        known = _SENTENCES.get(HTTPStatus(status_code))
        unexpected = f"The server failed with {type(error).__name__}; its log says more."
        self.refuse(status_code, known or said or unexpected)


def protected(method: Callable[..., Awaitable[None]]) -> Any:
    """Allow only authorized users, and turn errors that a user can fix into error responses."""

    @web.authenticated
    @authorized
    @functools.wraps(method)
    async def answer(self: Handler, *args: str, **kwargs: str) -> None:
        try:
            await method(self, *args, **kwargs)
        except Refused as error:
            self.refuse(HTTPStatus.CONFLICT, str(error), error.insert, error.needs_trust)
        except QuantTaaSError as error:
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), HTTPStatus.BAD_REQUEST)
            self.refuse(status, str(error))

    return answer


def _checked(model: type[M], values: Any) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors()]
        raise QuantTaaSError(f"the request is malformed: {'; '.join(problems)}") from None
