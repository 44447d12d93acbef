"""What the service says instead of an answer: a status, a code for programs, and a reason for people."""

from __future__ import annotations

from typing import Any, Final, final

from facetrm.core.errors import BackboneError, FacetrmError, TooLongError, printable
from facetrm.serve.batching import BusyError, ClosedError

KINDS: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_too_slow",
    409: "conflict",
    411: "length_required",
    413: "too_large",
    415: "not_json",
    421: "wrong_host",
    422: "unprocessable",
    429: "busy",
    499: "client_gone",
    500: "internal_error",
    503: "not_ready",
    504: "too_late",
}
_SHORTEN: Final = (
    "shorten the conversation, or let the operator start the server with --set backbone.truncation=drop_oldest"
)
_SKIP: Final = ', or send "on_error": "skip" to /v1/rewards'


@final
class RefusalError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        reason: what is wrong, for people.
        code: what is wrong, for programs; by default the usual one of the status.
        fix: what the client can do about it.
        row: index of the conversation that is the cause; None if it is the whole request.
        retry_after: seconds after which to try again; None if that does not help.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        code: str | None = None,
        fix: str | None = None,
        row: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.status, self.reason, self.fix, self.row, self.retry_after = status, reason, fix, row, retry_after
        self.code = code or KINDS.get(status, "refused")
        super().__init__(f"{status} {self.code}: {reason}")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready error, without the parts that are not known."""
        parts = {"message": printable(self.reason, 1500), "code": self.code, "fix": self.fix, "row": self.row}
        parts["retry_after"] = self.retry_after
        return {"type": KINDS.get(self.status, "refused")} | {
            name: value for name, value in parts.items() if value is not None
        }


def refusal_of(error: BaseException, *, row: int | None = None, skipped: bool = False) -> RefusalError:
    """Return the refusal that tells a client of an error.

    Args:
        error: the error. The text of an error that nobody foresaw stays in the log.
        row: index of the conversation that caused it; None if unknown.
        skipped: whether the conversation is left out as the client asked, and the others are scored.
    """
    if isinstance(error, RefusalError):
        return error
    if isinstance(error, BusyError):
        return RefusalError(429, str(error), code="queue_full", retry_after=error.retry_after)
    if isinstance(error, ClosedError):
        return RefusalError(503, "the server is shutting down", code="shutting_down", retry_after=5)
    if isinstance(error, TimeoutError):
        return RefusalError(504, "not answered in time", fix="send fewer conversations, or try again later")
    if isinstance(error, TooLongError):
        where = "" if error.place is None else f"{error.place}: "
        return RefusalError(
            422, f"{where}{error.problem}", code="unreadable", fix=_SHORTEN + ("" if skipped else _SKIP), row=row
        )
    if isinstance(error, BackboneError):
        return RefusalError(422, str(error), code="unreadable", row=row)
    if isinstance(error, FacetrmError):
        return RefusalError(500, str(error), code="not_scored", row=row)
    return RefusalError(500, "an internal error; the log of the server says more", row=row)


def error_place(error: BaseException) -> str:
    """Return the file and line of an error. The log has this instead of its text, which may hold a part of a request.

    Args:
        error: the error, after it was raised.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
