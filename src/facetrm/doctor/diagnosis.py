"""One model, examined: its files, its readings, or the server that answers at an address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch

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
from facetrm.doctor.server import connect, server_address
from facetrm.doctor.template import dropped_turns
from facetrm.doctor.verdicts import judge_readings, tabulate
from facetrm.doctor.words import check_words, knower
from facetrm.hub.load import load_model

_READABLE: Final = frozenset({"pad-mismatch", "double-bos"})
"""Errors of a folder that do not keep its own class from reading it."""
_WHY: Final = ("head-", "gated-", "adapter-", "weights-", "tokenizer-", "template-", "vocabulary", "does-not-load")
"""Beginnings of the codes of errors that say why a model does not load."""

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
    """Return what is wrong with a model in files.

    Args:
        model: a folder or a hub id.
        groups: the answers to each prompt, as whole conversations; none to look at the files alone.
        threshold: drift, in spreads of the rewards, above which readings disagree.
        device: where to compute.
        allowed: codes that do not count for the exit code.
        settings: settings of the backbone of a third-party model, as ``load_model`` takes them; float32 by default.
        trust_remote_code: let Python code that comes with the model run where it is scored. Looking at the files never
            runs it. Nothing in a folder can ask for it.

    Raises:
        ModelError: no such model.
        ConfigError: a setting that the model does not take.
        BackboneError: a conversation that cannot be read, and no fault of the template explains it.
    """
    artefact = read_artefact(model)
    if artefact.kind == "native" and settings:
        problem = f"the setting '{next(iter(settings))}' cannot be changed: the model is read as it was fitted"
        raise ConfigError(problem, place="--set", fix="take it out")
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
                skipped.append(f"{sum(map(len, groups))} rewards have hardly a spread to measure drift by: give {FEW}")
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
    """Return what is wrong with the rewards of a running server.

    Args:
        url: its address, or that of one endpoint.
        groups: the answers to each prompt, as whole conversations; at least one.
        against: a local copy of the model, a folder or a hub id.
        threshold: drift, in spreads of the rewards, above which readings disagree.
        device: where the local copy computes.
        timeout: seconds for one request, from the connection to the last byte of the answer.
        allowed: codes that do not count for the exit code.
        settings: settings of the local copy's backbone, as ``load_model`` takes them.
        key: API key of the server.
        trust_remote_code: let Python code that comes with the local copy run. Nothing in a folder can ask for it.

    Raises:
        ModelError: the server cannot be reached or is no reward server, or the local copy cannot be loaded.
        BackboneError: a conversation that the local copy cannot read.
    """
    conversations = [answer for group in groups for answer in group]
    address = server_address(url)
    if not conversations:
        raise ModelError("a server has no files to look at", place=address, fix="give --data FILE")
    local, render = (
        (None, None)
        if against is None
        else _local_copy(against, conversations, device=device, settings=settings, trusted=trust_remote_code)
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
        skipped=() if local is not None else ("nothing tells whether the rewards are right: give --against MODEL",),
        allowed=tuple(allowed),
    )


def _local_copy(
    against: str,
    conversations: Sequence[Conversation],
    *,
    device: str,
    settings: Mapping[str, object] | None,
    trusted: bool,
) -> tuple[Probed, RenderConversation | None]:
    """Return the readings of a local copy, and what renders a conversation as it reads it."""
    read = _settings(read_artefact(against), settings)
    model = load_model(against, device=device, settings=read, trust_remote_code=trusted)
    probed, _ = probe_model(model, conversations, plain=False)
    return probed, renderer(model.encoder)


def renderer(encoder: Encoder) -> RenderConversation | None:
    """Return what renders a conversation as a decoder reads it, None for another kind; the trunk is not kept.

    Args:
        encoder: encoder of the model.
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
    """Return what loading says, which is what ``score`` would say, and whether the tokenizer knows plain English."""
    tokenizer = None if artefact.kind == "native" else artefact.tokenizer
    try:
        # Half the memory is enough to see whether it loads.
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
            # The files of a foreign folder were asked already.
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
    """Return findings and readings; a classifier that our engine cannot load is read by its own class."""
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
        del model  # its own class takes as much memory again
    if artefact.has_own_class and rows:
        probe_own_forward(probed, artefact, rows, device=place, trusted=trusted)
    table = tabulate(probed, pairs_P2=answer_pairs([len(group) for group in groups]), threshold=threshold)
    rewards = probed.rewards()
    if rewards is not None:
        more += check_answers(groups, read, rewards=rewards, render=render, knows=knower(tokenizer))
    return more + judge_readings(probed, table, artefact=artefact, threshold=threshold), table


def _tokenized(encoder: Encoder, conversations: Sequence[Conversation]) -> list[Tokenized]:
    """Return the rows as an encoder reads them; none for one that does not say."""
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
    """Return how to read a model: one of ours as it was fitted, others in float32, so that bfloat16 is a reading."""
    return {**({} if artefact.kind == "native" else {"dtype": "float32"}), **(settings or {})}


def _read_by_others(exc: FacetrmError) -> Finding:
    return Finding(
        "does-not-load",
        "note",
        "facetrm cannot load it; it was read only by its own class of Transformers",
        str(exc),
        "an architecture or a naming of tensors that facetrm's loader does not know",
        "nothing, to use it elsewhere",
    )


def _explained(found: Sequence[Finding], allowed: Sequence[str]) -> bool:
    """Return whether a finding that counts says why the model does not load."""
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
        "what facetrm score says, too: files are missing, changed or of another kind, or it is no reward model",
        exc.fix or "fetch or save the whole folder again",
    )
