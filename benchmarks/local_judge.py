"""A small causal language model as a judge in this process, behind the same interface as an API.

Its reply is constrained: of the replies that were asked for it gives the one whose next token is the most probable one.
A tie is never among them, because both orders of a pair are asked about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from facetrm.backbone.causal import CausalReader
from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.headed import load_headed
from facetrm.label.client import Reply, TokenChoice
from facetrm.label.settings import LabelConfig

PREFIX = {"pairwise": '{"better": "reply_', "rating": ""}
CHOICES = {"pairwise": "12", "rating": "123456789"}


class LocalJudge:
    """Answers questions of the modes ``pairwise`` and ``rating`` from next-token probabilities."""

    def __init__(self, config: LabelConfig, backbone: BackboneConfig, mode: str) -> None:
        self._name, self._mode = config.model, mode
        headed = load_headed(backbone, "language")
        self._tokenizer = headed.encoder.tokenizer
        self._reader = CausalReader(headed, mode="exact")
        self.tokens = 0

    async def ask(self, messages: Sequence[Mapping[str, str]], *, schema: bool) -> Reply:
        """Return the most probable of the allowed replies."""
        text = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
        ids = tuple(self._tokenizer.encode(text + PREFIX[self._mode], add_special_tokens=False))
        self.tokens += len(ids)
        choices = CHOICES[self._mode]
        tokens = [self._tokenizer.encode(choice, add_special_tokens=False)[-1] for choice in choices]
        chances_C = self._reader.next_logits([ids], tokens)[0].log_softmax(dim=0)
        best = choices[int(chances_C.argmax())]
        if self._mode == "pairwise":
            return Reply(json.dumps({"better": f"reply_{best}"}), self._name, len(ids), 1)
        # 10 is two tokens here and is not among the choices: its chance is counted as nothing, and said so
        top = (*zip(choices, chances_C.tolist(), strict=True), ("10", -60.0))
        return Reply(best, self._name, len(ids), 1, tokens=(TokenChoice(best, top),))
