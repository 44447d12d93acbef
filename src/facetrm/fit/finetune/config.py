"""Settings of fine-tuning: losses and adapter, and the arguments of Transformers' ``Trainer``."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any, Final, Literal, Union, get_args, get_type_hints

from pydantic import Field, create_model, model_serializer, model_validator
from transformers import TrainingArguments

from facetrm.backbone.lora.adapters import LoraSettings
from facetrm.core.config import Section, Seed

# Arguments of the Trainer that this package sets itself, so users cannot set them.
_OURS: Final = frozenset(
    {
        "bf16_full_eval",
        "do_eval",
        "do_predict",
        "do_train",
        "eval_delay",
        "eval_on_start",
        "eval_steps",
        "eval_strategy",
        "fp16_full_eval",
        "greater_is_better",
        "hub_always_push",
        "hub_model_id",
        "hub_private_repo",
        "hub_revision",
        "hub_strategy",
        "hub_token",
        "include_for_metrics",
        "label_names",
        "label_smoothing_factor",
        "load_best_model_at_end",
        "metric_for_best_model",
        "output_dir",
        "push_to_hub",
        "remove_unused_columns",
        "resume_from_checkpoint",
        "save_only_model",
        "train_sampling_strategy",
        "use_cache",
    }
)
_TYPES: Final = get_type_hints(TrainingArguments)
_NAMES: Final = {
    f.name: _TYPES[f.name] for f in dataclasses.fields(TrainingArguments) if f.init and f.name not in _OURS
}


def _known(kind: Any) -> Any:
    """Return the type without ``str`` if it is an enumeration, so that an unknown value is an error."""
    parts = get_args(kind)
    if any(isinstance(part, type) and issubclass(part, Enum) for part in parts):
        return Union[tuple(part for part in parts if part is not str)]  # noqa: UP007  # made here, not written
    return kind


_FIELDS: Any = {name: (_known(kind) | None, None) for name, kind in _NAMES.items()}
_Arguments: Any = create_model("_Arguments", __base__=Section, **_FIELDS)


class TrainerSection(_Arguments):  # its fields are those of TrainingArguments
    """Arguments of ``transformers.TrainingArguments``, under the same names.

    Arguments that are not given have the defaults of Transformers, except that ``logging_steps`` is 10 and
    ``save_total_limit`` is 2. Arguments that this package sets itself (folders, evaluation, the Hub) are not accepted.
    """

    logging_steps: float = 10
    save_total_limit: int = Field(default=2, ge=1)

    @model_serializer(mode="wrap")
    def _given(self, handler: Any) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class FineTuneConfig(Section):
    """Settings of fine-tuning.

        loss = regression * L_MSE + preference * L_BT        (see :mod:`facetrm.fit.finetune.model`)

    Attributes:
        method: ``lora`` trains an adapter and the heads; ``full`` trains the whole trunk and the heads.
        lora: settings of the adapter; used only with ``lora``.
        regression: weight of the regression loss; 0 leaves out the loss, its head and the rated rows.
        preference: weight of the Bradley-Terry loss; 0 leaves out the loss, its head and the pairs.
        ratings: number of ratings in one example; every batch has per_device_train_batch_size examples, so its mix
            never changes.
        pairs: number of pairs in one example.
        dropout: keep the dropout that the trunk's own configuration asks for; off by default, so that both answers of
            a pair are read by the same model.
        seed: random seed of new adapters, new heads, the mix of rows in the examples, and dropout. If ``trainer.seed``
            is not given, it is 42 + seed.
        trainer: arguments of Transformers' ``Trainer``.
    """

    method: Literal["lora", "full"] = "lora"
    lora: LoraSettings = LoraSettings()
    regression: float = Field(default=1.0, ge=0.0)
    preference: float = Field(default=1.0, ge=0.0)
    ratings: int = Field(default=1, ge=1)
    pairs: int = Field(default=1, ge=1)
    dropout: bool = False
    seed: Seed = 0
    trainer: TrainerSection = TrainerSection()

    @model_validator(mode="after")
    def _something_to_learn(self) -> FineTuneConfig:
        if not self.regression and not self.preference:
            raise ValueError("regression and preference are both 0: give at least one a weight")
        return self
