"""The configuration of facetrm folders, and a stand-in for the model class that imports the class on first use.

Transformers may import this module while it is being imported itself, so the module must not import the backbone.
"""

from __future__ import annotations

from typing import Any, Final, final

from transformers import PretrainedConfig

from facetrm.core.lazy import load_name
from facetrm.model.door import MODEL_TYPE

__all__ = ["MODEL_TYPE", "AutoDoor", "FacetrmConfig"]

_MODEL: Final = ("facetrm.hub.auto", "FacetrmForSequenceClassification")


@final
class FacetrmConfig(PretrainedConfig):
    """The ``config.json`` of a facetrm model folder.

    Args:
        gating_token_pattern: the ids from the token that closes the prompt to the last control token before the
            response.
        response_header: all ids between the prompt and the text of the response.
        opening_token_id: the id that opens every conversation; None if there is none.
        hidden_size: the hidden size D of the trunk.
        kwargs: the common fields of every Transformers configuration.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        gating_token_pattern: list[int] | None = None,
        response_header: list[int] | None = None,
        opening_token_id: int | None = None,
        hidden_size: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.opening_token_id = opening_token_id
        self.gating_token_pattern = list(gating_token_pattern or [])
        self.response_header = list(response_header or [])
        self.hidden_size = hidden_size


@final
class AutoDoor:
    """A stand-in for :class:`~facetrm.hub.auto.FacetrmForSequenceClassification`, which it imports on first use."""

    config_class = FacetrmConfig

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model with :meth:`~facetrm.hub.auto.FacetrmForSequenceClassification.from_pretrained`.

        Args:
            args: positional arguments, passed on.
            kwargs: keyword arguments, passed on.
        """
        return load_name(*_MODEL).from_pretrained(*args, **kwargs)

    @classmethod
    def _from_config(cls, *args: Any, **kwargs: Any) -> Any:
        return load_name(*_MODEL)._from_config(*args, **kwargs)
