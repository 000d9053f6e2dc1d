"""What all routes share: who may ask, how bodies are read, how a refusal reads."""

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
from .study_reader import Desk

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
    """It cannot be done as things stand; ``insert`` is code that does it in the notebook instead."""

    def __init__(self, message: str, insert: str = "", needs_trust: bool = False) -> None:
        super().__init__(message)
        self.insert, self.needs_trust = insert, needs_trust


class Handler(APIHandler):
    """A route. Errors are JSON: ``message`` in one sentence, ``insert``, ``needs_trust``."""

    auth_resource = "quanttaas"
    # The panel asks by itself every few seconds: that is no sign of a person, and must not keep a server from ending.
    _track_activity = False

    def initialize(self, desk: Desk) -> None:
        """Take what all routes work with."""
        self.desk = desk

    def body(self, model: type[M]) -> M:
        """The body of the request, checked. Raises QuantTaaSError."""
        return _checked(model, self.get_json_body() or {})

    def query(self, model: type[M]) -> M:
        """The query of the request, checked; what is not of the model is left to others."""
        given = {name: self.get_query_argument(name, None) for name in model.model_fields}
        return _checked(model, {name: value for name, value in given.items() if value is not None})

    def refuse(self, status: int, message: str, insert: str = "", needs_trust: bool = False) -> None:
        """Answer with a refusal."""
        self.set_status(status)
        self.finish({"message": message, "insert": insert, "needs_trust": needs_trust})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer what no route answered itself, without a traceback."""
        error = kwargs.get("exc_info", (None, None))[1]
        said = error.log_message if isinstance(error, web.HTTPError) else None
        known = _SENTENCES.get(HTTPStatus(status_code))
        unexpected = f"The server failed with {type(error).__name__}; its log says more."
        self.refuse(status_code, known or said or unexpected)


def protected(method: Callable[..., Awaitable[None]]) -> Any:
    """Let only those ask who may, and turn errors that a person can mend into refusals."""

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
