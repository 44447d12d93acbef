"""Implicit rewards: how much likelier a trained policy makes an answer than the reference that it was trained from.

With the sums over the tokens of the response y, its end-of-turn token included, and |y| the number of these tokens:

    dpo    beta * sum_t [log pi(y_t | x, y_<t) - log pi_ref(y_t | x, y_<t)]
    ipo    beta * the same sum / |y|
    slic   sum_t log pi(y_t | x, y_<t) / |y|                                  (no reference, no beta)

``dpo`` is also the score of a policy that was trained with SLiC's hinge on the log-ratio. ``beta`` does not change the
order of answers.

Reference: Rafailov et al., DPO (arXiv 2305.18290); Azar et al., IPO (arXiv 2310.12036, with the mean per token as in
TRL); Zhao et al., SLiC-HF (arXiv 2305.10425).

Shapes: N conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor

from facetrm.backbone.causal import CausalReader
from facetrm.backbone.config import BackboneConfig, Mode
from facetrm.backbone.headed import HeadedModel, load_headed
from facetrm.backbone.text.chat import Tokenized
from facetrm.baselines.groups import bare_score
from facetrm.baselines.trained.rival_folder import (
    RivalManifest,
    check_hash,
    read_manifest,
    rival_folder,
)
from facetrm.core.config import parse_config
from facetrm.core.errors import ModelError
from facetrm.core.fingerprint import fingerprint
from facetrm.data.records import Conversation
from facetrm.model.door import RIVAL_MANIFEST
from facetrm.model.output import Score

ImplicitKind = Literal["dpo", "ipo", "slic"]


@final
class ImplicitRewardScorer:
    """Scores conversations by the log-probabilities of a policy and its reference.

    Args:
        policy: Trained causal language model; its encoder reads the conversations for both models.
        reference: Model that training started from; None only for ``slic``.
        beta: Factor of the reward, as in training; not used by ``slic``.
        kind: Formula of the reward.
        name: Name of the scorer; None for the kind.
        token_budget: Maximum number of tokens of one pass.
        mode: ``fast`` reads several conversations in one pass; ``exact`` reads one.

    Attributes:
        name: Name of the scorer.

    Raises:
        ModelError: The kind needs a reference, or the reference has other tokens.
    """

    def __init__(
        self,
        policy: HeadedModel,
        reference: HeadedModel | None,
        *,
        beta: float = 0.1,
        kind: ImplicitKind = "dpo",
        name: str | None = None,
        token_budget: int = 4096,
        mode: Mode = "fast",
    ) -> None:
        place = policy.encoder.config.path
        if kind not in get_args(ImplicitKind) or not 0.0 < beta < float("inf"):
            raise ModelError(
                f"kind is {kind!r} and beta {beta}",
                place=place,
                fix=f"give one of {', '.join(get_args(ImplicitKind))}, and a beta above 0",
            )
        if kind == "slic":
            reference = None
        elif reference is None:
            raise ModelError(f"'{kind}' needs a reference model", place=place, fix="give it, or kind slic")
        if reference is not None and reference.encoder.tokenizer.get_vocab() != policy.encoder.tokenizer.get_vocab():
            raise ModelError(
                "the reference has other tokens than the policy",
                place=reference.encoder.config.path,
                fix="give the model that the policy was trained from",
            )
        self.name, self._beta, self._kind, self._mode = name or kind, beta, kind, mode
        self._encoder = policy.encoder
        self._policy = CausalReader(policy, token_budget=token_budget, mode=mode)
        self._reference = None if reference is None else CausalReader(reference, token_budget=token_budget, mode=mode)
        known = {"kind": kind, "beta": None if kind == "slic" else beta, "policy": policy.fingerprint}
        self._hash = fingerprint(known | {"reference": None if reference is None else reference.weights})

    @property
    def hash(self) -> str:
        """The sha256 of policy, reference and settings."""
        return self._hash

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return the scores of conversations, in order.

        Args:
            conversations: Conversations, each ending with an answer.

        Raises:
            BackboneError: A conversation cannot be tokenised or is too long.
        """
        rows = [self._encoder.tokenize(messages, row=n) for n, messages in enumerate(conversations)]
        return [
            bare_score(
                reward,
                model=self.hash,
                tokens=len(row.ids),
                length=row.length,
                truncated=row.truncated,
                mode=self._mode,
            )
            for reward, row in zip(self._rewards(rows).tolist(), rows, strict=True)
        ]

    def _rewards(self, rows: Sequence[Tokenized]) -> Tensor:
        if not rows:
            return torch.zeros(0)
        policy_N = self._policy.response_log_probs(rows)
        length_N = torch.tensor([len(row.ids) - row.response_start for row in rows])
        if self._reference is None:
            return policy_N / length_N
        ratio_N = self._beta * (policy_N - self._reference.response_log_probs(rows))
        return ratio_N / length_N if self._kind == "ipo" else ratio_N


def load_implicit(
    folder: str | Path,
    *,
    reference: str | None = None,
    device: str = "auto",
    token_budget: int = 4096,
    mode: Mode = "fast",
) -> ImplicitRewardScorer:
    """Load the implicit reward of a policy that the recipe ``dpo`` trained.

    Args:
        folder: Folder of the policy, or of the run.
        reference: Path of the reference, if it was moved; None for the one that the manifest names.
        device: Device of both models.
        token_budget: Maximum number of tokens of one pass.
        mode: ``fast`` reads several conversations in one pass; ``exact`` reads one.

    Raises:
        ModelError: The folder holds no policy, or its files or those of the reference were changed.
        BackboneError: A language model cannot be loaded.
    """
    place = rival_folder(folder)
    manifest = read_manifest(place)
    if manifest.kind != "implicit":
        raise ModelError(f"a rival of kind '{manifest.kind}', not implicit", place=place, fix="use load_rival")
    policy = load_headed(manifest.backbone(place, device=device), "language")
    spec = _reference_of(manifest, place, reference, device=device)
    scorer = ImplicitRewardScorer(
        policy,
        None if spec is None else load_headed(spec, "language"),
        beta=_number(manifest, place),
        kind=manifest.settings.get("kind", "dpo"),
        token_budget=token_budget,
        mode=mode,
    )
    check_hash(manifest, scorer.hash, place=place)
    return scorer


def _number(manifest: RivalManifest, place: Path) -> float:
    beta = manifest.settings.get("beta")
    if isinstance(beta, bool) or not isinstance(beta, int | float):
        raise ModelError(f"beta is {beta!r}", place=place / RIVAL_MANIFEST, fix="run the recipe again")
    return float(beta)


def _reference_of(manifest: RivalManifest, place: Path, given: str | None, *, device: str) -> BackboneConfig | None:
    spec: Any = manifest.settings.get("reference")
    if spec is None:
        return None
    if not isinstance(spec, dict):
        raise ModelError("'reference' is not a section", place=place / RIVAL_MANIFEST, fix="run the recipe again")
    inside = spec.get("path") == "reference"  # a copy inside the folder
    path = given or (str(place / "reference") if inside else spec.get("path"))
    return parse_config(
        BackboneConfig,
        {**spec, "path": path, "device": device, "trust_remote_code": False},
        place=place / RIVAL_MANIFEST,
    )
