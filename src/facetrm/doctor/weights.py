"""Check the weights of a third-party model: heads that are missing, untrained or not finite, missing tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from safetensors import SafetensorError

from facetrm.doctor.artefact import GATED_KEYS, Artefact, names_in
from facetrm.doctor.findings import Finding
from facetrm.doctor.numbers import all_finite, numbers

_HEADS = ("score", "classifier", "v_head", "regression_head", "value_head")
_SHOWN = 3


def check_weights(artefact: Artefact) -> Iterator[Finding]:
    """Yield findings about the weights."""
    if artefact.unreadable:
        yield Finding(
            "does-not-load",
            "error",
            "files cannot be read",
            "; ".join(artefact.unreadable),
            "a copy or download was interrupted, or this is not a model folder",
            "copy or fetch the folder again; give a folder written by save_pretrained",
        )
    if artefact.kind == "adapter":
        yield from _adapter(artefact)
        return
    if not artefact.tensors:
        if not any("safetensors" in reason for reason in artefact.unreadable):
            pickles = [file.name for file in artefact.folder.glob("*.bin")]
            yield Finding(
                "weights-missing",
                "error",
                "no weights in safetensors",
                f"{len(pickles)} pickle files" + (f": {', '.join(pickles[:_SHOWN])}" if pickles else ""),
                "the weights were not saved, or only in the pickle format, which can run code",
                "save them with save_pretrained, which writes model.safetensors",
            )
        return
    if artefact.kind == "gated":
        yield from _gated(artefact)
    else:
        yield from _classifier_head(artefact)
    yield from _trunk(artefact)
    yield from _finite(artefact)


def head_names(artefact: Artefact) -> list[str]:
    """Return the names of the tensors that belong to the head of a classifier or of a gated model."""
    if artefact.kind == "gated":
        return sorted(name for name in artefact.tensors if name.startswith(GATED_KEYS))
    expected = artefact.expected
    wanted = set(_HEADS) if expected is None else {name.split(".")[0] for name in expected.head}
    return sorted(name for name in artefact.tensors if name.split(".")[0] in wanted)


def _adapter(artefact: Artefact) -> Iterator[Finding]:
    saved = names_in(artefact.adapter_config.get("modules_to_save"))
    held = [name for name in artefact.tensors if any(part in _HEADS for part in name.split("."))]
    if held:
        return
    named = f"modules_to_save names {', '.join(saved)}" if saved else "modules_to_save is empty"
    yield Finding(
        "adapter-head",
        "error",
        "the adapter has no reward head",
        f"{len(artefact.tensors)} tensors, but no head; {named}; task_type "
        f"{artefact.adapter_config.get('task_type')!r}",
        "the head was trained but not saved with the adapter, so every load initialises a new one at random",
        "train with task_type SEQ_CLS or modules_to_save: [score]; if the trained head is still in memory, save it",
    )


def _gated(artefact: Artefact) -> Iterator[Finding]:
    missing = [key for key in GATED_KEYS if not any(name.startswith(key) for name in artefact.tensors)]
    if missing:
        yield Finding(
            "head-missing",
            "error",
            f"the gated reward model has no {', '.join(missing)}",
            f"{len(head_names(artefact))} tensors of the head found",
            "the gate or the heads were not exported",
            "export the whole model; fetch the folder again",
        )
    architectures = artefact.architectures
    plain = not any("Gating" in name for name in architectures)
    yield Finding(
        "gated-head",
        "error" if plain else "note",
        f"gated weights under the architecture {', '.join(architectures) or 'none'}"
        if plain
        else "AutoModelForSequenceClassification without the model's own code loads it as a plain classifier",
        f"the weights hold {', '.join(n for n in head_names(artefact)[:_SHOWN])} ...; a plain classifier needs "
        "'score', which is missing and would be initialised at random",
        "config.json names a class without a gate" if plain else "generic loaders and servers have no gated class",
        "write the gated architecture into config.json, and load the model with facetrm"
        if plain
        else "load it with facetrm, never as a plain classifier",
    )
    yield from _values(artefact, [n for n in head_names(artefact) if not n.endswith(("bias", "num_batches_tracked"))])


def _classifier_head(artefact: Artefact) -> Iterator[Finding]:
    expected = artefact.expected
    if expected is None:
        return
    missing = [name for name in expected.head if name not in artefact.tensors]
    other = [name for name in artefact.tensors if any(part in _HEADS for part in name.split("."))]
    if missing:
        architecture = ", ".join(artefact.architectures) or "none"
        yield Finding(
            "head-missing",
            "error",
            f"no '{missing[0]}' in the weights (architecture {architecture})",
            f"heads found: {', '.join(other[:_SHOWN]) or 'none'}; AutoModelForSequenceClassification initialises "
            f"{', '.join(missing[:_SHOWN])} at random, differently on each load",
            "it is a base or language model, or a reward model whose head was not saved or has another name",
            f"save the trained head as '{missing[0]}'; without a head, this is not a reward model",
        )
        return
    for name, shape in expected.head.items():
        found = artefact.tensors[name].shape
        if found and found != shape:
            yield Finding(
                "head-shape",
                "error",
                f"'{name}' has shape {list(found)}, but the configuration needs {list(shape)}",
                f"{found[0]} rows for {artefact.config.get('id2label')!r}",
                "num_labels in config.json differs from training, or the head belongs to another model",
                "write as many labels into config.json as the head has rows; a scalar reward has one",
            )
    yield from _values(artefact, [name for name in expected.head if name.endswith("weight")])


def _values(artefact: Artefact, names: Sequence[str]) -> Iterator[Finding]:
    for name in names:
        if artefact.tensors[name].file is None:
            continue
        held = artefact.read(name)
        tensor = None if held is None else numbers(held)
        if tensor is None:
            continue
        if not bool(torch.isfinite(tensor).all()):
            yield Finding(
                "head-not-finite",
                "error",
                f"'{name}' is not finite",
                f"{int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} values are NaN or infinite",
                "training diverged, or a cast to float16 overflowed",
                "use an earlier checkpoint, or train again with a lower learning rate in float32 or bfloat16",
            )
        elif tensor.numel() > 1 and float(tensor.max()) == float(tensor.min()):
            yield Finding(
                "head-untrained",
                "error",
                f"'{name}' is {'zero' if not tensor.any() else 'constant'}",
                f"all {tensor.numel()} values are {float(tensor.flatten()[0]):g}",
                "the head was initialised and never trained, or an optimiser shard was not gathered before saving",
                "save the head after training (gather sharded parameters first)",
            )


def _trunk(artefact: Artefact) -> Iterator[Finding]:
    lost = sorted(name for name, info in artefact.tensors.items() if info.file is None)
    holes: list[str] = []
    if artefact.expected is not None:
        prefix, trunk = artefact.expected.prefix, artefact.expected.trunk
        named = any(name.startswith(prefix) for name in artefact.tensors)
        inside = (name for name in artefact.tensors if name.startswith(prefix) or not named)
        held = {name.removeprefix(prefix) for name in inside if name not in head_names(artefact)}
        # Loaders rename the tensors of some checkpoints (fused experts, older names), so unknown names end the check.
        known = all(name in trunk or name.endswith("inv_freq") for name in held)
        holes = [name for name in trunk if name not in held] if held and known else []
    if lost or holes:
        names = lost or holes
        yield Finding(
            "weights-missing",
            "error",
            f"{len(names)} tensors of the backbone are missing"
            if not lost
            else "the index lists tensors that are in no file",
            _listed(names),
            "an interrupted download or a partial save; a loader would initialise them at random",
            "fetch or save the whole folder again",
        )


def _finite(artefact: Artefact) -> Iterator[Finding]:
    heads = set(head_names(artefact))
    bad, unknown = [], []
    try:
        for name, tensor in artefact.each():
            finite = None if tensor is None else all_finite(tensor)
            if finite is None:
                unknown.append(name)
            elif not finite and name not in heads:
                bad.append(name)
    except (SafetensorError, OSError):
        return  # the unreadable file is already reported
    if unknown:
        yield Finding(
            "weights-unread",
            "note",
            f"{len(unknown)} tensors have a dtype that PyTorch cannot read as numbers",
            _listed(unknown),
            "the weights were packed by a quantiser, so they were not checked for NaN or infinity",
            "no fix is needed if the model loads",
        )
    if bad:
        yield Finding(
            "weights-not-finite",
            "error",
            f"{len(bad)} tensors of the backbone are not finite",
            _listed(bad),
            "training diverged, or a cast to float16 overflowed",
            "use an earlier checkpoint, or save in float32 or bfloat16",
        )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
