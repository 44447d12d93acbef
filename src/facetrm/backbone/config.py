"""Settings of the backbone: the section ``backbone`` of a recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field, field_validator

from facetrm.backbone.lora.names import name_problem
from facetrm.backbone.text.truncate import Truncation
from facetrm.core.config import Section

Mode: TypeAlias = Literal["fast", "exact"]


class BackboneConfig(Section):
    """Settings of the backbone and of how it reads conversations.

    Attributes:
        path: Folder, GGUF file (or a folder that holds one), known name such as ``smollm2-135m``, or a model on the
            Hub: ``hf://owner/name``, or ``owner/name`` if there is no folder ``owner``.
        adapter: Folder of a LoRA adapter in PEFT's format, which becomes part of the trunk.
        adapters: Folders of named adapters, by name. Each is added on top of ``adapter`` only when it is requested.
        kind: Kind of trunk: ``decoder`` (last-token features), ``encoder`` (mean pooling), or as the architecture says.
        dtype: Data type of the trunk; ``auto`` is float32 on a CPU and bfloat16 on a GPU. Features are always float32.
        device: Device: ``cpu``, ``cuda``, ``cuda:1``, ...; ``auto`` uses a GPU if there is one.
        max_tokens: Maximum tokens of a conversation; by default the limit stated by model and tokenizer.
        truncation: What to do with a longer conversation: ``error``, or ``drop_oldest`` to drop the oldest turns.
        template: Jinja file that replaces the tokenizer's chat template, or ``plain`` for ``role: text`` lines.
        date: Fixed date for templates that print today's date.
        mode: Mode of the passes: ``fast`` shares prompts and passes; ``exact`` reads one conversation per pass, so a
            score never depends on the other conversations, not even in the last bit.
        token_budget: Maximum tokens of one forward pass.
        compile: Whether ``torch.compile`` speeds up a decoder's passes in ``fast`` mode; the first pass takes minutes.
            If the compiled code fails or differs from the model, it is not used, and the log says so.
        trust_remote_code: Whether code that comes with the model may run. A recipe may allow this; the manifest of a
            saved model may not (see :func:`facetrm.hub.load.load_model`).
        revision: Commit or branch on the Hub.

    Example:
        >>> from facetrm import BackboneConfig
        >>> BackboneConfig(path="model", mode="exact").mode
        'exact'
    """

    path: str
    adapter: str | None = None
    adapters: dict[str, str] = Field(default_factory=dict)
    kind: Literal["auto", "decoder", "encoder"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    max_tokens: int | None = Field(default=None, ge=2)
    truncation: Truncation = "error"
    template: str | None = None
    date: str = "26 Jul 2024"
    mode: Mode = "fast"
    token_budget: int = Field(default=8192, ge=1)
    compile: bool = False
    trust_remote_code: bool = False
    revision: str | None = None

    @field_validator("adapters")
    @classmethod
    def _known_names(cls, adapters: dict[str, str]) -> dict[str, str]:
        for name in adapters:
            if (problem := name_problem(name)) is not None:
                raise ValueError(f"an adapter cannot be named '{name}': {problem}")
        return adapters

    @field_validator("date")
    @classmethod
    def _plain_date(cls, date: str) -> str:
        if not re.fullmatch(r"[\w ,./:-]+", date):
            raise ValueError("write a date in letters, digits and spaces, such as 26 Jul 2024")
        return date

    def with_full_paths(self) -> BackboneConfig:
        """Return the settings with absolute paths, so a saved reference is valid in any working folder."""

        def full(place: str) -> str:
            path = Path(place).expanduser()
            return str(path.resolve()) if path.exists() else place

        places: dict[str, object] = {"path": full(self.path)}
        places["adapter"] = None if self.adapter is None else full(self.adapter)
        places["adapters"] = {name: full(place) for name, place in self.adapters.items()}
        places["template"] = self.template if self.template in (None, "plain") else full(str(self.template))
        return self.model_copy(update=places)
