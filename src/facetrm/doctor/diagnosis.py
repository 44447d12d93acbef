"""Diagnose one model: its files and its rewards, or the rewards of a running server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch

from facetrm.backbone.config import Mode
from facetrm.backbone.encoder import Encoder
from facetrm.backbone.text.chat import Tokenized
from facetrm.backbone.text.guarded import GuardedTemplate
from facetrm.backbone.transformer import TransformerEncoder, chat_template
from facetrm.core.errors import BackboneError, ConfigError, FacetrmError, ModelError
from facetrm.core.web.key import ServerKey
from facetrm.data.records import Conversation
from facetrm.doctor.artefact import Artefact, read_artefact
from facetrm.doctor.causes import FEW
from facetrm.doctor.drift import answer_pairs
from facetrm.doctor.equal import RenderConversation, check_answers
from facetrm.doctor.findings import THRESHOLD, Diagnosis, Finding, Variant, worst_first
from facetrm.doctor.inspection import inspect_files
from facetrm.doctor.probes import Probed, probe_model, probe_own_forward, rendered
from facetrm.doctor.served import (
    SERVED,
    judge_server,
    probe_length,
    probe_server,
    suspect_activation,
    truncates,
)
from facetrm.doctor.server import connect, served_mode, server_address
from facetrm.doctor.template import dropped_turns
from facetrm.doctor.verdicts import judge_readings, tabulate
from facetrm.doctor.words import check_words, knower
from facetrm.hub.load import load_model

_READABLE: Final = frozenset({"pad-mismatch", "double-bos"})
"""Errors of a folder that do not prevent its own Transformers class from loading it."""
_WHY: Final = ("head-", "gated-", "adapter-", "weights-", "tokenizer-", "template-", "vocabulary", "does-not-load")
"""Prefixes of the error codes that explain why a model does not load."""

Groups = Sequence[Sequence[Conversation]]


def diagnose(
    model: str,
    groups: Groups,
    *,
    threshold: float = THRESHOLD,
    device: str = "auto",
    allowed: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    trust_remote_code: bool = False,
) -> Diagnosis:
    """Check a model folder and, with data, its rewards.

    Args:
        model: a folder or ``hf://owner/name``.
        groups: the responses to each prompt, as full conversations; if empty, only the files are checked.
        threshold: the drift that counts as a fault, in standard deviations of the rewards.
        device: the device to compute on: ``auto``, ``cpu`` or ``cuda``.
        allowed: the codes of findings that do not affect the exit code.
        settings: backbone settings of a third-party model, as in ``load_model``; its dtype is float32 by default.
        trust_remote_code: whether Python code that comes with the model may run when it is scored. Inspecting the files
            never runs it, and nothing in a folder can ask for it.

    Raises:
        ModelError: the model does not exist.
        ConfigError: a setting is invalid or cannot be changed.
        BackboneError: a conversation cannot be read, and no finding about the template explains it.
    """
    artefact = read_artefact(model)
    if artefact.kind == "native" and settings:
        problem = f"the setting '{next(iter(settings))}' cannot be changed: the model is read as it was fitted"
        raise ConfigError(problem, place="--set", fix="remove it")
    found = inspect_files(artefact)
    skipped: list[str] = []
    table: tuple[Variant, ...] = ()
    if not groups:
        skipped.append("no score was computed: give --data FILE")
        found += _without_data(
            artefact, found, allowed=allowed, device=device, settings=settings, trusted=trust_remote_code
        )
    else:
        try:
            more, table = _probe(
                artefact,
                groups,
                found=found,
                threshold=threshold,
                device=device,
                settings=settings,
                trusted=trust_remote_code,
            )
            found += more
            if 0 < sum(map(len, groups)) < FEW:
                few = f"{sum(map(len, groups))} rewards are too few to measure drift reliably"
                skipped.append(f"{few}: give at least {FEW} conversations")
        except ConfigError:
            raise
        except FacetrmError as exc:
            explained = any(finding.code.startswith("template") for finding in found)
            if isinstance(exc, BackboneError) and exc.row is not None and not explained:
                raise
            if not _explained(found, allowed):
                found.append(_not_loaded(exc))
            skipped.append(f"no score was computed: {exc}")
    return Diagnosis(
        model=model,
        kind=artefact.kind,
        conversations=sum(map(len, groups)),
        threshold=threshold,
        findings=worst_first(found),
        variants=table,
        skipped=tuple(skipped),
        allowed=tuple(allowed),
    )


def diagnose_server(
    url: str,
    groups: Groups,
    *,
    against: str | None = None,
    threshold: float = THRESHOLD,
    device: str = "auto",
    timeout: float = 60.0,
    allowed: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    key: ServerKey | None = None,
    trust_remote_code: bool = False,
) -> Diagnosis:
    """Check the rewards of a running server.

    Args:
        url: the address of the server or of one endpoint.
        groups: the responses to each prompt, as full conversations; at least one conversation.
        against: a local copy of the model to compare with: a folder or ``hf://owner/name``.
        threshold: the drift that counts as a fault, in standard deviations of the rewards.
        device: the device of the local copy: ``auto``, ``cpu`` or ``cuda``.
        timeout: the seconds allowed for one request, from the connection to the last byte of the response.
        allowed: the codes of findings that do not affect the exit code.
        settings: backbone settings of the local copy, as in ``load_model``.
        key: the API key of the server.
        trust_remote_code: whether Python code that comes with the local copy may run. Nothing in a folder can ask for
            it.

    Raises:
        ModelError: the server cannot be reached or is not a reward server, or the local copy cannot be loaded.
        BackboneError: the local copy cannot read a conversation.
    """
    conversations = [answer for group in groups for answer in group]
    address = server_address(url)
    if not conversations:
        raise ModelError("a server can only be checked with data", place=address, fix="give --data FILE")
    local, render = None, None
    if against is not None:
        mode = served_mode(url, timeout=timeout, key=key)
        local, render = _local_copy(
            against, conversations, device=device, mode=mode, settings=settings, trusted=trust_remote_code
        )
    server = connect(url, conversations[0], render=render, timeout=timeout, key=key)
    reference = None if local is None else local.rewards()
    probed, found = probe_server(server, conversations, local=reference)
    table = tabulate(probed, pairs_P2=answer_pairs([len(group) for group in groups]), threshold=threshold)
    found += judge_server(table, probed, local=local, threshold=threshold)
    served, codes = probed.rewards(SERVED), {finding.code for finding in found}
    if served is not None and "server-constant" not in codes:
        if local is None and server.dialect != "facetrm":
            found += suspect_activation(served)
        cut, failed = probe_length(server, conversations[0])
        found += failed if cut is None else [truncates(cut)]
    return Diagnosis(
        model=str(address),
        kind=f"server of {server.dialect}",
        conversations=len(conversations),
        threshold=threshold,
        findings=worst_first(found),
        variants=table,
        skipped=() if local is not None else ("the rewards were not compared with a local copy: give --against MODEL",),
        allowed=tuple(allowed),
    )


def _local_copy(
    against: str,
    conversations: Sequence[Conversation],
    *,
    device: str,
    mode: Mode | None,
    settings: Mapping[str, object] | None,
    trusted: bool,
) -> tuple[Probed, RenderConversation | None]:
    """Return the readings of a local copy, and a function that renders a conversation with its chat template."""
    read = _settings(read_artefact(against), settings)
    model = load_model(against, device=device, mode=mode, settings=read, trust_remote_code=trusted)
    probed, _ = probe_model(model, conversations, plain=False)
    return probed, renderer(model.encoder)


def renderer(encoder: Encoder) -> RenderConversation | None:
    """Return a function that renders conversations with the encoder's chat template; None if it is not a decoder.

    The function does not keep the model's weights in memory.

    Args:
        encoder: the encoder of the model.
    """
    if not isinstance(encoder, TransformerEncoder) or encoder.kind != "decoder":
        return None
    tokenizer, date = encoder.tokenizer, encoder.config.date
    template = GuardedTemplate(str(chat_template(tokenizer, encoder.config)))

    def render(messages: Conversation) -> str:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        return template.render(tokenizer, turns, date=date, place="chat template")

    return render


def _without_data(
    artefact: Artefact,
    found: Sequence[Finding],
    *,
    allowed: Sequence[str],
    device: str,
    settings: Mapping[str, object] | None,
    trusted: bool,
) -> list[Finding]:
    """Try to load the model, as ``score`` would, and check that its tokenizer knows plain English."""
    tokenizer = None if artefact.kind == "native" else artefact.tokenizer
    try:
        # bfloat16 halves the memory and is enough to see whether the model loads.
        read = {} if artefact.kind == "native" else {"dtype": "bfloat16", **(settings or {})}
        model = load_model(artefact.folder, device=device, settings=read, trust_remote_code=trusted)
    except ConfigError:
        raise
    except FacetrmError as exc:
        more = [] if _explained(found, allowed) else [_not_loaded(exc)]
    else:
        more = []
        tokenizer = tokenizer or getattr(model.encoder, "tokenizer", None)
        if artefact.kind == "native" and isinstance(model.encoder, TransformerEncoder):
            # For a foreign folder, inspect_files has already checked the template.
            more += dropped_turns(model.encoder.unrendered_turns())
    return more if tokenizer is None else [*more, *check_words(tokenizer, ())]


def _probe(
    artefact: Artefact,
    groups: Groups,
    *,
    found: Sequence[Finding],
    threshold: float,
    device: str,
    settings: Mapping[str, object] | None,
    trusted: bool,
) -> tuple[list[Finding], tuple[Variant, ...]]:
    """Return findings and the table of readings. A classifier that facetrm cannot load is scored by its own class."""
    conversations = [answer for group in groups for answer in group]
    more: list[Finding] = []
    place = torch.device("cpu")
    tokenizer = artefact.tokenizer
    render: RenderConversation | None = _render_of(artefact)
    try:
        settings = _settings(artefact, settings)
        model = load_model(artefact.folder, device=device, settings=settings, trust_remote_code=trusted)
    except FacetrmError as exc:
        wrong = any(finding.severity == "error" and finding.code not in _READABLE for finding in found)
        if artefact.kind != "classifier" or wrong or isinstance(exc, ConfigError):
            raise
        probed, rows = Probed(), rendered(artefact, conversations)
        read = rows
        more.append(_read_by_others(exc))
    else:
        if isinstance(model.encoder, TransformerEncoder):
            tokenizer, render = model.encoder.tokenizer, renderer(model.encoder)
        read = _tokenized(model.encoder, conversations)
        more += [] if tokenizer is None else check_words(tokenizer, conversations)
        probed, rows = probe_model(model, conversations, plain=not artefact.has_own_class)
        place = getattr(getattr(model.encoder, "model", None), "device", place)
        del model  # the Transformers class needs the same memory again
    if artefact.has_own_class and rows:
        probe_own_forward(probed, artefact, rows, device=place, trusted=trusted)
    table = tabulate(probed, pairs_P2=answer_pairs([len(group) for group in groups]), threshold=threshold)
    rewards = probed.rewards()
    if rewards is not None:
        more += check_answers(groups, read, rewards=rewards, render=render, knows=knower(tokenizer))
    return more + judge_readings(probed, table, artefact=artefact, threshold=threshold), table


def _tokenized(encoder: Encoder, conversations: Sequence[Conversation]) -> list[Tokenized]:
    """Return the tokenised conversations; an empty list if the encoder is not a TransformerEncoder."""
    if not isinstance(encoder, TransformerEncoder):
        return []
    rows = []
    for n, messages in enumerate(conversations):
        try:
            rows.append(encoder.tokenize(messages, row=n))
        except BackboneError as exc:
            exc.row = n
            raise
    return rows


def _render_of(artefact: Artefact) -> RenderConversation:
    return lambda messages: artefact.render([{"role": m.role, "content": m.content} for m in messages])


def _settings(artefact: Artefact, settings: Mapping[str, object] | None) -> dict[str, object]:
    """Return the backbone settings. Third-party models are read in float32, so that bfloat16 can be compared."""
    return {**({} if artefact.kind == "native" else {"dtype": "float32"}), **(settings or {})}


def _read_by_others(exc: FacetrmError) -> Finding:
    return Finding(
        "does-not-load",
        "note",
        "facetrm cannot load the model; it was scored only by its own Transformers class",
        str(exc),
        "facetrm's loader does not know the architecture or the tensor names",
        "no fix is needed to use the model outside facetrm",
    )


def _explained(found: Sequence[Finding], allowed: Sequence[str]) -> bool:
    """Return whether a finding that is not allowed already explains why the model does not load."""
    return any(
        finding.severity == "error" and finding.code not in allowed and finding.code.startswith(_WHY)
        for finding in found
    )


def _not_loaded(exc: FacetrmError) -> Finding:
    return Finding(
        "does-not-load",
        "error",
        "the model cannot be loaded",
        exc.problem if exc.place is None else f"{exc.place}: {exc.problem}",
        "files are missing, changed or of another kind, or it is not a reward model; facetrm score fails too",
        exc.fix or "fetch or save the whole folder again",
    )
