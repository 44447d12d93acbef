"""Settings of the service, for ``--set serve.KEY=VALUE``."""

from __future__ import annotations

from pydantic import Field, model_validator

from facetrm.core.config import Section


class ServeConfig(Section):
    """Settings of the HTTP service.

    Attributes:
        name: Name under which the model is served; by default the name of its folder.
        batch_tokens: Most tokens that are read together. A longer conversation is read alone.
        max_wait_ms: Longest time that the first conversation of a batch waits for others, in milliseconds.
        max_queue: Most conversations that are accepted and not yet answered; further requests get status 429.
        max_answers: Most conversations of one request.
        max_body_bytes: Most bytes of the body of a request.
        timeout_seconds: Time within which a request is answered; then it gets status 504.
        rate_per_minute: Most requests of one key per minute; 0 sets no limit. A key's own limit has priority.
        shutdown_seconds: Longest time for finishing what was accepted after a signal to stop.
        hosts: Names in the ``Host`` header that are answered, besides this machine's own; only checked on loopback
            without keys, where it keeps web pages of other sites out.
        insecure: Whether other machines may be answered without keys.
        log_text: Whether prompts and answers are logged.

    Example:
        >>> from facetrm.serve import ServeConfig
        >>> ServeConfig(max_answers=8).max_queue
        1024
    """

    name: str | None = Field(default=None, min_length=1, max_length=200)
    batch_tokens: int = Field(default=4096, ge=1)
    max_wait_ms: float = Field(default=5.0, ge=0.0, le=1000.0)
    max_queue: int = Field(default=1024, ge=1)
    max_answers: int = Field(default=256, ge=1)
    max_body_bytes: int = Field(default=8 * 2**20, ge=1024)
    timeout_seconds: float = Field(default=60.0, gt=0.0, le=86400.0)
    rate_per_minute: int = Field(default=0, ge=0)
    shutdown_seconds: int = Field(default=60, ge=1)
    hosts: tuple[str, ...] = ()
    insecure: bool = False
    log_text: bool = False

    @model_validator(mode="after")
    def _one_request_fits(self) -> ServeConfig:
        if self.max_answers > self.max_queue:
            raise ValueError(f"max_answers is {self.max_answers}, above max_queue, which is {self.max_queue}")
        return self
