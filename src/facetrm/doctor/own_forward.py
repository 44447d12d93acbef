"""The rewards that users of a published classifier get: ``AutoModelForSequenceClassification(...).logits[:, 0]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from transformers import AutoModelForSequenceClassification

from facetrm.backbone.checkpoint import quiet_transformers
from facetrm.backbone.text.chat import Ids, Tokenized
from facetrm.core.errors import ModelError
from facetrm.doctor.artefact import Artefact
from facetrm.doctor.readings import Side, companions, in_batches, padded_on
from facetrm.hub.auto import register


@final
class OwnForward:
    """A model loaded by ``AutoModelForSequenceClassification``, in float32.

    Args:
        artefact: the model folder.
        device: the device to compute on.
        trusted: whether code that comes with the model may run.

    Attributes:
        pad: the id that batches are padded with.
        stated: the padding id in ``config.json``.
        left_out: the names of tensors in the folder that the class does not use.

    Raises:
        ModelError: Transformers cannot load the folder, or would initialise some tensors at random.
    """

    def __init__(self, artefact: Artefact, *, device: torch.device, trusted: bool = False) -> None:
        register()
        try:
            with quiet_transformers():
                model, report = AutoModelForSequenceClassification.from_pretrained(
                    str(artefact.folder), dtype=torch.float32, output_loading_info=True, trust_remote_code=trusted
                )
        except Exception as exc:  # Transformers raises many kinds of errors on broken files
            reason = " ".join(str(exc).split())[:200]
            raise ModelError(
                f"Transformers cannot load it ({type(exc).__name__}: {reason})",
                place=artefact.folder,
                fix="give a folder written by save_pretrained",
            ) from None
        drawn = sorted(report["missing_keys"])
        if drawn:
            raise ModelError(
                f"Transformers initialises {', '.join(drawn[:3])} at random",
                place=artefact.folder,
                fix="save or fetch the whole folder again",
            )
        self._model = model.to(device).eval()
        own = None if artefact.tokenizer is None else artefact.tokenizer.pad_token_id
        self.stated: int | None = model.config.get_text_config().pad_token_id
        self.pad: int | None = own if own is not None else self.stated
        self.left_out = tuple(sorted(report["unexpected_keys"]))

    def in_company(self, rows: Sequence[Tokenized]) -> list[float]:
        """Return the first logit of each row when it is batched with a row of equal length, without padding.

        Args:
            rows: N tokenised conversations.

        Raises:
            ModelError: the class raises an error on the batch.
        """
        pairs = zip(rows, companions(rows), strict=True)
        return [self.rewards([row.ids, beside], side="right")[0] for row, beside in pairs]

    def rewards(self, rows: Sequence[Ids], *, side: Side, pad: int | None = None) -> list[float]:
        """Return the first logit of each row, in order.

        Args:
            rows: the token ids of N conversations.
            side: the padding side, or ``alone`` for batches of one.
            pad: the padding id; None uses ``self.pad``.

        Raises:
            ModelError: the class raises an error on the batch.
        """
        found: list[float] = []
        fill = pad if pad is not None else self.pad or 0
        with torch.no_grad():
            for batch in in_batches(rows, side):
                ids_NL, mask_NL, _ = padded_on(batch, pad=fill, side=side)
                device = self._model.device
                try:
                    output = self._model(input_ids=ids_NL.to(device), attention_mask=mask_NL.to(device))
                except ValueError as exc:
                    raise ModelError(f"the model's own class fails on the batch ({exc})") from None
                found += output.logits[:, 0].float().tolist()
        return found
