"""Which backbone a run reads with, and how: the section ``backbone`` of a recipe."""

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
    """Which backbone, and how it reads.

    Attributes:
        path: a folder, or a name on the Hub: ``hf://owner/name``, or ``owner/name`` where no folder is named ``owner``.
        adapter: the folder of a LoRA adapter on it, as PEFT writes it: part of the trunk from then on.
        adapters: folders of further ones by name, each at work only where it is asked for, on top of ``adapter``.
        kind: ``decoder`` (last-token features), ``encoder`` (mean pooling), or what the architecture says.
        dtype: of the trunk; ``auto`` is float32 on a CPU and bfloat16 on a GPU. Features are float32 always.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; ``auto`` takes a GPU where there is one.
        max_tokens: the most tokens of a conversation; what model and tokenizer say by default.
        truncation: what to do with a longer one: ``error``, or ``drop_oldest`` (see ``backbone.truncate``).
        template: a Jinja file in place of the tokenizer's chat template, or ``plain``: ``role: text`` lines.
        date: what a template that prints today's date gets.
        mode: ``fast`` shares prompts and passes; ``exact`` reads one conversation a pass, so that a score cannot depend
            on what else was asked, not even in its last bit.
        token_budget: tokens of one pass.
        compile: let ``torch.compile`` make the passes of a decoder in ``fast`` mode faster; the first takes minutes.
            Compiled code that fails, or that differs from the model, is given up, and the log says so.
        trust_remote_code: let code that comes with the model run. A recipe is its user's own word; in the manifest of a
            saved model it is not followed (see :func:`facetrm.hub.load.load_model`).
        revision: a commit or branch on the Hub.

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
            raise ValueError("write a date in letters, digits and blanks, such as 26 Jul 2024")
        return date

    def with_full_paths(self) -> BackboneConfig:
        """Return the settings with full paths, so that a saved reference holds wherever the program works later."""

        def full(place: str) -> str:
            path = Path(place).expanduser()
            return str(path.resolve()) if path.exists() else place

        places: dict[str, object] = {"path": full(self.path)}
        places["adapter"] = None if self.adapter is None else full(self.adapter)
        places["adapters"] = {name: full(place) for name, place in self.adapters.items()}
        places["template"] = self.template if self.template in (None, "plain") else full(str(self.template))
        return self.model_copy(update=places)
