"""A model folder as its files say it is, without loading weights: configuration, tensors by name, tokenizer.

A broken folder is read as far as it goes; what is wrong with it is the business of the checks.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from facetrm.backbone.checkpoint import quiet_transformers
from facetrm.backbone.text.guarded import GuardedTemplate
from facetrm.core.errors import ModelError, short
from facetrm.hub.load import local_folder
from facetrm.model.door import MODEL_TYPE
from facetrm.model.store import MODEL_MANIFEST

FolderKind = Literal["native", "classifier", "gated", "adapter", "gguf", "other"]

GATED_KEYS: Final = ("regression_layer.weight", "reward_transform_matrix", "gating.")
_INDEX: Final = "model.safetensors.index.json"


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor stands, and its shape; ``file`` is None where only an index names it."""

    shape: tuple[int, ...]
    file: Path | None


@dataclass(frozen=True)
class Expected:
    """What ``AutoModelForSequenceClassification`` builds from the configuration: the shapes of its tensors.

    Attributes:
        head: shapes of the tensors outside the trunk.
        trunk: shapes of the trunk's tensors, without its prefix.
        prefix: prefix of the trunk's names in a checkpoint, such as ``model.``.
        embedding: the name of the input embedding inside the trunk.
        reads_last: whether the class looks for the last token by the padding id; others pool the first token.
    """

    head: Mapping[str, tuple[int, ...]]
    trunk: Mapping[str, tuple[int, ...]]
    prefix: str
    embedding: str
    reads_last: bool = True


@dataclass(frozen=True)
class Artefact:
    """The files of one model.

    Attributes:
        name: as it was asked for.
        folder: where its files lie.
        kind: what its files make it.
        config: configuration of the model, as parsed JSON; {} if there is none.
        tokenizer_config: configuration of the tokenizer; {} if there is none.
        adapter_config: configuration of an adapter; {} if there is none.
        tensors: by name.
        unreadable: what could not be read, and why.
    """

    name: str
    folder: Path
    kind: FolderKind
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    adapter_config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()

    @property
    def architectures(self) -> list[str]:
        """The classes that the configuration names."""
        return names_in(self.config.get("architectures"))

    @property
    def has_own_class(self) -> bool:
        """Whether ``AutoModelForSequenceClassification`` reads it: a classifier, or one of ours with its door open."""
        return self.kind == "classifier" or (self.kind == "native" and self.config.get("model_type") == MODEL_TYPE)

    def read(self, name: str) -> Tensor | None:
        """Return the tensor ``name``, on the CPU; None where PyTorch has no such type.

        Args:
            name: name of the tensor.

        Raises:
            ModelError: only an index names it.
        """
        file = self.tensors[name].file
        if file is None:
            raise ModelError(f"tensor '{name}' is not in its file", place=self.folder, fix="fetch the folder again")
        with safe_open(file, framework="pt") as handle:
            return _tensor(handle, name)

    def each(self) -> Iterator[tuple[str, Tensor | None]]:
        """Yield every tensor that is there, one at a time; None for one of a type that PyTorch does not have."""
        for file in sorted({info.file for info in self.tensors.values() if info.file is not None}):
            with safe_open(file, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118  (it is no mapping)
                    yield name, _tensor(handle, name)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer, None where it cannot be loaded."""
        try:
            with quiet_transformers():
                found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                    str(self.folder), trust_remote_code=False
                )
        except Exception:  # loaders raise errors of every kind on files that others wrote
            return None
        return found if isinstance(found.model_max_length, int | float) else None

    def render(self, turns: Sequence[Mapping[str, str]], *, opened: bool = False) -> str:
        """Return a conversation as the chat template writes it.

        Args:
            turns: role and content of each.
            opened: whether the next answer is opened, as for generating.

        Raises:
            ModelError: there is no template, or it refuses.
        """
        if self.tokenizer is None:
            raise ModelError("the tokenizer cannot be loaded", place=self.folder, fix="save it into the folder")
        try:
            template = GuardedTemplate(str(self.tokenizer.get_chat_template()))
            messages = [dict(turn) for turn in turns]
            return template.render(self.tokenizer, messages, date=None, place="chat template", opened=opened)
        except Exception as exc:  # a template is a program that others wrote
            reason = f"{type(exc).__name__}: {' '.join(str(exc).split())}"
            raise ModelError(f"the template refuses ({short(reason, 200)})", place=self.folder) from None

    @cached_property
    def expected(self) -> Expected | None:
        """What Transformers would build, None where the configuration does not say, or needs code of its own."""
        try:
            with quiet_transformers(), torch.device("meta"):
                config = AutoConfig.from_pretrained(str(self.folder), trust_remote_code=False)
                model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
        except Exception:
            return None
        prefix = f"{model.base_model_prefix}."
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        embedding = next((name for name, module in model.named_modules() if module is model.get_input_embeddings()), "")
        return Expected(
            head={name: shape for name, shape in shapes.items() if not name.startswith(prefix)},
            trunk={name.removeprefix(prefix): s for name, s in shapes.items() if name.startswith(prefix)},
            prefix=prefix,
            embedding=f"{embedding.removeprefix(prefix)}.weight",
            reads_last=_looks_for_padding(type(model)),
        )


def read_artefact(name: str) -> Artefact:
    """Return what the files of a folder, or of a model on the Hub, say.

    Args:
        name: a folder of facetrm (a run folder, too) or of Hugging Face, or a hub id.

    Raises:
        ModelError: no such folder or model.
    """
    folder = local_folder(name)
    if (folder / MODEL_MANIFEST).is_file():
        return Artefact(name, folder, "native", _json(folder / "config.json", []))
    unreadable: list[str] = []
    config, tokenizer_config, adapter_config = (
        _json(folder / file, unreadable) for file in ("config.json", "tokenizer_config.json", "adapter_config.json")
    )
    if not config and not adapter_config and any(folder.glob("*.gguf")):
        return Artefact(name, folder, "gguf")
    if not config and not adapter_config and not (folder / "config.json").exists():
        unreadable.append("config.json is missing")
    tensors = _tensors(folder, unreadable)
    return Artefact(
        name,
        folder,
        _kind(config, adapter_config, tensors),
        config,
        tokenizer_config,
        adapter_config,
        tensors,
        tuple(unreadable),
    )


def _tensor(handle: Any, name: str) -> Tensor | None:
    try:
        return cast(Tensor, handle.get_tensor(name))
    except (SafetensorError, RuntimeError, TypeError, AttributeError):
        return None


def _looks_for_padding(kind: type) -> bool:
    """Return whether the head of a class finds its token by the padding id: its ``forward`` then reads that id."""
    try:
        return "pad_token_id" in inspect.getsource(cast(Any, kind).forward)
    except (OSError, TypeError):
        return True


def names_in(value: object) -> list[str]:
    """Return the strings of a list in JSON; nothing where ``value`` is no list."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _kind(config: Mapping[str, Any], adapter: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> FolderKind:
    if adapter and not config:
        return "adapter"
    if any(name.startswith(GATED_KEYS) for name in tensors):
        return "gated"
    architectures = names_in(config.get("architectures"))
    if any(a.endswith("ForRewardModelWithGating") for a in architectures):
        return "gated"
    return "classifier" if any(a.endswith("ForSequenceClassification") for a in architectures) else "other"


def _json(path: Path, unreadable: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        unreadable.append(f"{path.name} is not JSON ({exc})")
        return {}
    if not isinstance(value, dict):
        unreadable.append(f"{path.name} holds no object")
        return {}
    return value


def _tensors(folder: Path, unreadable: list[str]) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118
                    found[name] = TensorInfo(tuple(handle.get_slice(name).get_shape()), file)
        except Exception as exc:  # the library raises errors of several kinds, among them a bare one of its own
            unreadable.append(f"{file.name} is not a whole safetensors file ({' '.join(str(exc).split())[:80]})")
    index = _json(folder / _INDEX, unreadable).get("weight_map")
    if isinstance(index, dict):
        found = {str(name): TensorInfo((), None) for name in index if name not in found} | found
    return found
