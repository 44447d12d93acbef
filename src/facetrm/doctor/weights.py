"""What the weights of a foreign folder say: a head that is missing, untrained, not finite, or never saved."""

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
    """Yield what is wrong with the weights."""
    if artefact.unreadable:
        yield Finding(
            "does-not-load",
            "error",
            "files cannot be read",
            "; ".join(artefact.unreadable),
            "an interrupted copy or download, or no model folder",
            "copy or fetch the folder again; give one written by save_pretrained",
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
                "weights were not saved, or only in a format that can run code",
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
    """Return the tensors of the weights that belong to a head: the classifier's, or the gated model's."""
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
        f"{len(artefact.tensors)} tensors, none of a head; {named}; task_type "
        f"{artefact.adapter_config.get('task_type')!r}",
        "the head was trained but not saved with the adapter, so that each load draws another one",
        "train with task_type SEQ_CLS or modules_to_save: [score]; where the trained head is still in memory, save it",
    )


def _gated(artefact: Artefact) -> Iterator[Finding]:
    missing = [key for key in GATED_KEYS if not any(name.startswith(key) for name in artefact.tensors)]
    if missing:
        yield Finding(
            "head-missing",
            "error",
            f"a gated reward model without {', '.join(missing)}",
            f"{len(head_names(artefact))} tensors of a head",
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
        else "AutoModelForSequenceClassification without the model's own code takes it for a plain classifier",
        f"weights hold {', '.join(n for n in head_names(artefact)[:_SHOWN])} ...; a plain classifier has 'score', "
        "which is not there and is drawn at random",
        "config.json names a class without gate" if plain else "generic loaders and servers know no gated class",
        "write the gated architecture into config.json, and load it with facetrm"
        if plain
        else "load it with facetrm; never through a plain classifier",
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
            f"heads found: {', '.join(other[:_SHOWN]) or 'none'}; AutoModelForSequenceClassification draws "
            f"{', '.join(missing[:_SHOWN])} at random, differently each time",
            "a base or language model, or a reward model whose head was not saved or has another name",
            f"save the trained head as '{missing[0]}'; without one, this is no reward model",
        )
        return
    for name, shape in expected.head.items():
        found = artefact.tensors[name].shape
        if found and found != shape:
            yield Finding(
                "head-shape",
                "error",
                f"'{name}' has shape {list(found)}, the configuration wants {list(shape)}",
                f"{found[0]} rows for {artefact.config.get('id2label')!r}",
                "num_labels in config.json is not what was trained, or the head is another model's",
                "write as many labels as the head has rows; a scalar reward has one",
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
                "take an earlier checkpoint, or train again with a lower learning rate in float32 or bfloat16",
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
        # Loaders rename some checkpoints (fused experts, older names): with an unknown name, nothing can be said.
        known = all(name in trunk or name.endswith("inv_freq") for name in held)
        holes = [name for name in trunk if name not in held] if held and known else []
    if lost or holes:
        names = lost or holes
        yield Finding(
            "weights-missing",
            "error",
            f"{len(names)} tensors of the trunk are not there" if not lost else "the index names tensors of no file",
            _listed(names),
            "an interrupted download or a partial save: a loader draws them at random",
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
        return  # the file was named already: it cannot be read
    if unknown:
        yield Finding(
            "weights-unread",
            "note",
            f"{len(unknown)} tensors are of a type that PyTorch cannot read as numbers",
            _listed(unknown),
            "weights packed by a quantiser",
            "nothing, if the model loads: they were not looked at for NaN or zero",
        )
    if bad:
        yield Finding(
            "weights-not-finite",
            "error",
            f"{len(bad)} tensors of the trunk are not finite",
            _listed(bad),
            "training diverged, or a cast to float16 overflowed",
            "take an earlier checkpoint, or save in float32 or bfloat16",
        )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
