"""A pairwise preference model: a causal language model reads a prompt with two answers and says which is better.

    user turn   [CONTEXT] ... [RESPONSE A] ... [RESPONSE B] ...
    P(A > B)    softmax over the logits of the tokens A and B where the assistant's answer begins
    p(x, y)     (P(A > B | A = x, B = y) + 1 - P(A > B | A = y, B = x)) / 2: both orders

    reward of x among the answers to one prompt = mean over the other answers y of p(x, y)

Such a reward says nothing about an answer alone: it belongs to the group that was scored together.

Reference: the pairwise model of Dong et al., RLHF Workflow (arXiv 2405.07863), after SLiC-HF (arXiv 2305.10425).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Final, final

import torch

from facetrm.backbone.causal import CausalReader
from facetrm.backbone.config import Mode
from facetrm.backbone.headed import HeadedModel, load_headed
from facetrm.backbone.text.chat import Ids, check_ending
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.baselines.groups import bare_score, groups_of
from facetrm.baselines.trained.rival_folder import check_hash, read_manifest, rival_folder
from facetrm.core.errors import BackboneError, ModelError
from facetrm.core.fingerprint import fingerprint
from facetrm.core.statistics import Floats
from facetrm.data.records import Conversation, Message, conversation_key
from facetrm.model.output import Score

PAIRWISE_FORMAT: Final = 1  # increase it whenever the same pair would give different text
ALONE: Final = 0.5
"""Reward of an answer that is compared with no other."""


@dataclass(frozen=True)
class PairQuestion:
    """A tokenised question which of two answers is better.

    Attributes:
        ids: Token ids up to the place where the assistant's answer begins.
        truncated: Whether part of the text was cut.
    """

    ids: Ids
    truncated: bool


@final
class PairReader:
    """Renders and tokenises a prompt with two answers.

    Args:
        encoder: Encoder of the language model, whose chat template and limit are used.

    Attributes:
        tokens: Token ids of the answers A and B.

    Raises:
        BackboneError: The tokenizer does not tell the answers A and B apart in their first token.
    """

    def __init__(self, encoder: TransformerEncoder) -> None:
        self._encoder = encoder
        asked = Message(role="user", content="a")
        found = [encoder.tokenize((asked, Message(role="assistant", content=letter))) for letter in "AB"]
        one, other = (row.ids[: row.response_start + 1] for row in found)
        if one[:-1] != other[:-1] or one[-1] == other[-1]:
            raise BackboneError(
                "the answers 'A' and 'B' do not differ in their first token alone",
                place=encoder.config.path,
                fix="give a chat template (backbone.template) that opens the response with a token of its own",
            )
        self.tokens: tuple[int, int] = (one[-1], other[-1])

    def __call__(self, prompt: Conversation, a: Message, b: Message) -> PairQuestion:
        """Return the tokenised question.

        Args:
            prompt: Prompt of both answers.
            a: Answer that is called A.
            b: Answer that is called B.

        Raises:
            BackboneError: The text cannot be tokenised or is too long.
        """
        asked = Message(role="user", content=pair_text(prompt, a, b))
        row = self._encoder.tokenize((asked, Message(role="assistant", content="A")))
        return PairQuestion(row.ids[: row.response_start], row.truncated)


@final
class PairwiseScorer:
    """Compares the answers to one prompt with a trained pairwise model.

    Args:
        headed: Causal language model that was trained on such questions.
        name: Name of the scorer.
        token_budget: Maximum number of tokens of one pass.
        mode: ``fast`` reads several pairs in one pass; ``exact`` reads one.

    Attributes:
        name: Name of the scorer.
        encoder: Encoder that reads the questions.
    """

    def __init__(
        self, headed: HeadedModel, *, name: str = "pairwise", token_budget: int = 4096, mode: Mode = "fast"
    ) -> None:
        self.name, self._mode = name, mode
        self._read = PairReader(headed.encoder)
        self._model = CausalReader(headed, token_budget=token_budget, mode=mode)
        self.encoder = headed.encoder
        self._hash = fingerprint({"kind": "pairwise", "format": PAIRWISE_FORMAT, "model": headed.fingerprint})

    @property
    def hash(self) -> str:
        """The sha256 of the model and of how pairs are rendered."""
        return self._hash

    def first_wins(self, pairs: Sequence[tuple[Conversation, Conversation]]) -> Floats:
        """Return the probability that the first answer is the better one, in each order, [N, 2].

        The first column reads the first answer as A, the second column reads it as B.

        Args:
            pairs: N pairs of conversations with the same prompt.

        Raises:
            BackboneError: A pair has two prompts, cannot be tokenised or is too long.
        """
        questions: list[Ids] = []
        for number, (one, other) in enumerate(pairs):
            _check_pair(one, other, number)
            for a, b in ((one[-1], other[-1]), (other[-1], one[-1])):
                try:
                    questions.append(self._read(one[:-1], a, b).ids)
                except BackboneError as exc:
                    raise exc.at(f"pair {number} ({one[0].content[:30]!r})") from None
        if not questions:
            return torch.zeros(0, 2, dtype=torch.float64).numpy()
        logits_N2 = self._model.next_logits(questions, self._read.tokens).double()
        a_N = torch.sigmoid(logits_N2[:, 0] - logits_N2[:, 1]).reshape(-1, 2)
        found: Floats = torch.stack([a_N[:, 0], 1.0 - a_N[:, 1]], dim=1).numpy()
        return found

    def compare(self, pairs: Sequence[tuple[Conversation, Conversation]]) -> Floats:
        """Return the probability that the first answer is the better one, averaged over both orders, [N].

        Args:
            pairs: N pairs of conversations with the same prompt.

        Raises:
            BackboneError: A pair has two prompts, cannot be tokenised or is too long.
        """
        found: Floats = self.first_wins(pairs).mean(axis=1)
        return found

    def tournament(self, prompt: Conversation, answers: Sequence[Message]) -> int:
        """Return the index of the winner of a linear tournament: the best so far meets the next answer.

        It takes ``len(answers) - 1`` comparisons. The earlier answer wins a tie.

        Args:
            prompt: Prompt of all answers.
            answers: Answers to it, at least one.

        Raises:
            ModelError: There is no answer.
            BackboneError: A pair cannot be tokenised or is too long.
        """
        if not answers:
            raise ModelError("no answers", place="tournament", fix="give at least one")
        best = 0
        for rival in range(1, len(answers)):
            pair = ((*prompt, answers[best]), (*prompt, answers[rival]))
            if self.compare([pair])[0] < 0.5:
                best = rival
        return best

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return the scores of conversations; consecutive ones with the same prompt are a group.

        Args:
            conversations: Conversations, each ending with an answer.

        Raises:
            BackboneError: A conversation cannot be tokenised or is too long.
        """
        return [score for group in self.score_groups(groups_of(conversations)) for score in group]

    def score_groups(self, groups: Sequence[Sequence[Conversation]]) -> list[list[Score]]:
        """Return the scores of each group: the mean probability of being better than each other answer.

        An answer without an opponent gets one half.

        Args:
            groups: Conversations by group. Those of a group share the prompt.

        Raises:
            BackboneError: A group has two prompts, or a pair cannot be tokenised or is too long.
        """
        pairs = [(one, other) for group in groups for one, other in permutations(group, 2)]
        wins = iter(self.compare(pairs).tolist())
        found = []
        for group in groups:
            others = len(group) - 1
            means = [sum(next(wins) for _ in range(others)) / others if others else ALONE for _ in group]
            found.append([self._score(mean, answer) for mean, answer in zip(means, group, strict=True)])
        return found

    def _score(self, reward: float, messages: Conversation) -> Score:
        check_ending(messages, row=0)
        return bare_score(reward, model=self.hash, length=len(messages[-1].content), mode=self._mode)


def pair_text(prompt: Conversation, a: Message, b: Message) -> str:
    """Return the text of the user turn that shows a prompt and two answers.

    Args:
        prompt: Messages before the answers.
        a: Answer that is called A.
        b: Answer that is called B.
    """
    context = "".join(f"\n\n<turn> {message.role}\n {message.content}" for message in prompt)
    return f"[CONTEXT] {context}\n\n\n [RESPONSE A] {a.content} [RESPONSE B] {b.content} \n"


def load_pairwise(
    folder: str | Path, *, device: str = "auto", token_budget: int = 4096, mode: Mode = "fast"
) -> PairwiseScorer:
    """Load a pairwise model that the recipe ``pairwise`` trained.

    Args:
        folder: Folder of the model, or of the run.
        device: Device of the model.
        token_budget: Maximum number of tokens of one pass.
        mode: ``fast`` reads several pairs in one pass; ``exact`` reads one.

    Raises:
        ModelError: The folder holds no pairwise model, or its files were changed.
        BackboneError: The language model cannot be loaded.
    """
    place = rival_folder(folder)
    manifest = read_manifest(place)
    if manifest.kind != "pairwise":
        raise ModelError(f"a rival of kind '{manifest.kind}', not pairwise", place=place, fix="use load_rival")
    headed = load_headed(manifest.backbone(place, device=device), "language")
    scorer = PairwiseScorer(headed, token_budget=token_budget, mode=mode)
    check_hash(manifest, scorer.hash, place=place)
    return scorer


def _check_pair(one: Conversation, other: Conversation, number: int) -> None:
    check_ending(one, row=number)
    check_ending(other, row=number)
    if conversation_key(one[:-1]) != conversation_key(other[:-1]):
        raise BackboneError(
            "the two answers have different prompts", place=f"pair {number}", fix="compare answers to one prompt"
        )
