"""The readings of a running server: repeated, in reverse order, concurrent, very long, and against a local copy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from facetrm.core.errors import ModelError
from facetrm.data.records import Conversation, Message
from facetrm.doctor.causes import show_drift
from facetrm.doctor.drift import equal_rewards, spread
from facetrm.doctor.findings import Finding, Variant
from facetrm.doctor.probes import BF16, REFERENCE, Probed, closest
from facetrm.doctor.server import AT_ONCE, RewardServer, ServedAnswer

SERVED: Final = "server, alone"
SERVED_AGAIN: Final = "server, again"
REVERSED: Final = "server, in reverse"
TOGETHER: Final = f"server, {AT_ONCE} at once"
LOCAL: Final = "local copy"
_LENGTHS: Final = (256, 1024, 4096, 16384)
_TEXTS: Final = ("that is all there is to say", "no , I take all of it back", "write a poem about the river at night")


@dataclass(frozen=True)
class Cut:
    """Evidence that a server truncates silently.

    Attributes:
        words: the approximate length in words at which text is dropped.
        side: the side that is dropped: ``beginning`` or ``end``.
    """

    words: int
    side: str


def probe_server(
    server: RewardServer, conversations: Sequence[Conversation], *, local: Sequence[float] | None = None
) -> tuple[Probed, list[Finding]]:
    """Return the readings of a server, and findings for requests that failed.

    Args:
        server: the connected server.
        conversations: the conversations to score.
        local: the rewards of a local copy of the model, one per conversation; None if there is no copy.
    """
    probed: Probed = Probed()
    found: list[Finding] = []
    if local is not None:
        probed.add(LOCAL, "", lambda: list(local))
    ways = (
        (SERVED, "" if local is None else LOCAL, conversations, 1),
        (SERVED_AGAIN, SERVED, conversations, 1),
        (REVERSED, SERVED, conversations[::-1], 1),
        (TOGETHER, SERVED, conversations, AT_ONCE),
    )
    for name, against, rows, at_once in ways:
        try:
            answers = server.ask_all(rows, at_once=at_once)
        except ModelError as exc:
            answers = [ServedAnswer(None, problem=exc.problem)]
        failed = [answer for answer in answers if answer.reward is None]
        if failed:
            found.append(_fails(name, f"{len(failed)} of {len(rows)}: {failed[0].problem}"))
        if name == SERVED and any(answer.numbers > 1 for answer in answers):
            found.append(_several(max(answer.numbers for answer in answers)))
        rewards = None if failed else [float(a.reward) for a in answers if a.reward is not None]
        if rewards is not None and name == REVERSED:
            rewards = rewards[::-1]
        probed.add(name, against, lambda rewards=rewards: rewards, note="the server failed")  # type: ignore[misc]
        if failed and name == SERVED:
            break
    return probed, found


def probe_length(server: RewardServer, messages: Conversation) -> tuple[Cut | None, list[Finding]]:
    """Test whether the server truncates long conversations silently, and return findings for requests that failed.

    The answer is repeated until it is long. Then other endings, and long texts before the prompt, must change the
    reward. A server that refuses the length with a 4xx status, or reports ``truncated``, is correct.

    Args:
        server: the connected server.
        messages: a conversation to lengthen.
    """
    for words in _LENGTHS:
        whole = _grown(messages, words)
        versions = {
            "end": [_with_end(whole, text) for text in _TEXTS],
            "beginning": [_with_start(whole, text, words // 4) for text in _TEXTS],
        }
        for side, texts in versions.items():
            try:
                answers = server.ask_all([whole, *texts])
            except ModelError as exc:
                return None, [_fails(f"{words} words", exc.problem)]
            refused = next((a for a in answers if a.reward is None), None)
            if refused is not None:
                right = 400 <= refused.status < 500
                return None, [] if right else [_fails(f"{words} words", refused.problem)]
            if any(answer.truncated for answer in answers):
                return None, []
            if len({answer.reward for answer in answers}) == 1:
                return Cut(words, side), []
    return None, []


def judge_server(table: Sequence[Variant], probed: Probed, *, local: Probed | None, threshold: float) -> list[Finding]:
    """Return the findings from a server's readings.

    Args:
        table: the table of readings with verdicts.
        probed: the server's readings.
        local: the readings of a local copy; None if there is no copy.
        threshold: the largest drift that is not a fault, in standard deviations of the rewards.
    """
    rewards = probed.rewards(SERVED)
    if rewards is None:
        return []
    if equal := equal_rewards(rewards):
        return [_constant(equal)]
    lines = {line.name: line for line in table}
    found = _unsteady(lines)
    reference = None if local is None else local.rewards(REFERENCE)
    if local is not None and reference is not None and lines[SERVED].verdict == "fault":
        found.append(_drifted(rewards, reference, local, lines[SERVED], threshold=threshold))
    return found


def suspect_activation(rewards: Sequence[float]) -> list[Finding]:
    """Return a finding if all ``rewards`` lie strictly between 0 and 1, which suggests a sigmoid."""
    if not all(0.0 < reward < 1.0 for reward in rewards):
        return []
    return [_squashed("warning", f"all {len(rewards)} lie between 0 and 1 ({min(rewards):.4g} to {max(rewards):.4g})")]


def truncates(cut: Cut) -> Finding:
    """Return the finding for a server that truncates silently, from the result of :func:`probe_length`."""
    return Finding(
        "server-truncates",
        "error",
        "long conversations are truncated silently",
        f"at {cut.words} words, {1 + len(_TEXTS)} conversations that differ at the {cut.side} get the same reward",
        f"the server's token limit is below the model's, and it truncates at the {cut.side}",
        "raise the server's token limit, and make it refuse longer conversations",
    )


def _unsteady(lines: Mapping[str, Variant]) -> list[Finding]:
    """Return findings for rewards that depend on order or concurrency, or else for rewards that are unstable."""
    again = lines.get(SERVED_AGAIN)
    base = 0.0 if again is None or again.drift is None else again.drift.mean
    found = []
    for name, code, problem, culprit, fix in (
        (
            REVERSED,
            "server-order",
            "rewards depend on earlier requests",
            "a prefix cache with hidden states computed in another batch, or state kept between requests",
            "turn the prefix cache off (vLLM: --no-enable-prefix-caching), and report the problem",
        ),
        (
            TOGETHER,
            "server-batch",
            "rewards depend on concurrent requests",
            "padding without an attention mask, or kernels that round differently for different batch sizes",
            "turn on batch invariance (facetrm: --mode exact, vLLM: VLLM_BATCH_INVARIANT=1), or send one request at a"
            " time; in float32 the difference is smaller",
        ),
    ):
        line = lines.get(name)
        if line is not None and line.drift is not None and line.verdict == "fault" and line.drift.mean > 2 * base:
            found.append(Finding(code, "error", problem, show_drift(line.drift), culprit, fix))
    if again is not None and again.drift is not None and again.verdict == "fault" and not found:
        found.append(
            Finding(
                "server-unstable",
                "error",
                "the same conversation gets different rewards",
                show_drift(again.drift),
                "dropout is on, sampling is used, or different models run behind one address",
                "put the model into evaluation mode; check that all replicas serve the same weights",
            )
        )
    return found


def _drifted(
    rewards: Sequence[float], reference: Sequence[float], local: Probed, line: Variant, *, threshold: float
) -> Finding:
    within = threshold * spread(reference)
    squashed = [1.0 / (1.0 + math.exp(-max(min(x, 500.0), -500.0))) for x in reference]
    unit = min(within, threshold * spread(squashed))
    measured = "" if line.drift is None else show_drift(line.drift)
    if closest(rewards, {"sigmoid": squashed}, within=unit) is not None:
        return _squashed("error", f"they equal the sigmoid of the local copy's rewards; {measured}")
    others = {r.name: r.rewards for r in local.readings.values() if r.rewards is not None and r.name != REFERENCE}
    name = closest(rewards, others, within=within)
    if name is None and line.drift is not None and line.drift.mean <= 2 * _moved_by_bf16(local, reference):
        return Finding(
            "server-drift",
            "note",
            "the server differs from the local copy by no more than bfloat16 rounding",
            measured,
            "the server computes in bfloat16",
            "none needed if that is precise enough; otherwise serve in float32",
        )
    return Finding(
        "server-drift",
        "error",
        "the server gives different rewards than the local copy",
        measured,
        f"it gives the same rewards as the reading '{name}'" if name else "other weights, another template or head",
        "serve the model with the chat template and tokens that it was trained with"
        if name
        else "compare the chat template and the weights of the server and the copy",
    )


def _moved_by_bf16(local: Probed, reference: Sequence[float]) -> float:
    rewards = local.rewards(BF16)
    if rewards is None:
        return 0.0
    return sum(abs(a - b) for a, b in zip(rewards, reference, strict=True)) / max(len(reference), 1)


def _squashed(severity: str, measured: str) -> Finding:
    certain = severity == "error"
    return Finding(
        "server-activation",
        "error" if certain else "warning",
        "the server applies a sigmoid to the rewards" if certain else "the server may apply a sigmoid to the rewards",
        measured,
        "an activation after the head: classifier servers apply a sigmoid by default",
        "send use_activation: false, or write problem_type: regression into config.json"
        + ("" if certain else "; give --against MODEL to be sure, or --allow server-activation if this is intended"),
    )


def _fails(where: str, problem: str) -> Finding:
    return Finding(
        "server-fails",
        "error",
        "the server fails on a request of the doctor",
        f"{where}: {problem}",
        "see the server's log",
        "fix the error in the log; a server should answer conversations that it cannot score with a 4xx status",
    )


def _several(numbers: int) -> Finding:
    return Finding(
        "server-labels",
        "error",
        "the server returns several numbers for one conversation",
        f"{numbers} numbers; the first is used here",
        "a classifier with several labels, to which servers apply a softmax by default",
        "serve a model with one label",
    )


def _constant(measured: str) -> Finding:
    return Finding(
        "server-constant",
        "error",
        "every conversation gets the same reward",
        measured,
        "the head was not loaded, or the server returns 1 because it finds no end token",
        "send messages, so that the server renders them with the model's chat template; check the head",
    )


def _grown(messages: Conversation, words: int) -> Conversation:
    text = messages[-1].content
    times = max(1, math.ceil(words / max(len(text.split()), 1)))
    return (*messages[:-1], Message(role="assistant", content=" ".join([text] * times)))


def _with_end(messages: Conversation, text: str) -> Conversation:
    last = messages[-1]
    return (*messages[:-1], Message(role=last.role, content=f"{last.content} {text}"))


def _with_start(messages: Conversation, text: str, words: int) -> Conversation:
    """Return the conversation with about ``words`` words of ``text`` before it."""
    prefix = " ".join([text] * max(1, words // len(text.split())))
    first = messages[0]
    return (Message(role=first.role, content=f"{prefix} {first.content}"), *messages[1:])
