"""The files of a model folder, read without loading the weights: configuration, tensor names, tokenizer.

A broken folder is read as far as possible. The checks report what is wrong with it.
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
    """The location and the shape of one tensor.

    Attributes:
        shape: the shape of the tensor; empty if only the index lists it.
        file: the file that holds the tensor, or None if only the index lists it.
    """

    shape: tuple[int, ...]
    file: Path | None


@dataclass(frozen=True)
class Expected:
    """The tensors of the model that ``AutoModelForSequenceClassification`` builds from the configuration.

    Attributes:
        head: the shapes of the tensors outside the trunk, by name.
        trunk: the shapes of the trunk's tensors, by name without the prefix.
        prefix: the prefix of the trunk's tensor names in a checkpoint, such as ``model.``.
        embedding: the name of the input embedding inside the trunk.
        reads_last: whether the class finds the last token by the padding id. Other classes pool the first token.
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
        name: the folder or hub id that the user gave.
        folder: the local folder that holds the files.
        kind: the kind of model, judged by its files.
        config: the parsed ``config.json``; {} if there is none.
        tokenizer_config: the parsed ``tokenizer_config.json``; {} if there is none.
        adapter_config: the parsed ``adapter_config.json``; {} if there is none.
        tensors: the tensors of the weights, by name.
        unreadable: one message for each file that could not be read.
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
        """Whether ``AutoModelForSequenceClassification`` can load it: a classifier, or our folder with config.json."""
        return self.kind == "classifier" or (self.kind == "native" and self.config.get("model_type") == MODEL_TYPE)

    def read(self, name: str) -> Tensor | None:
        """Return one tensor on the CPU, or None if PyTorch does not support its dtype.

        Args:
            name: the name of the tensor.

        Raises:
            ModelError: the index lists the tensor, but no file holds it.
        """
        file = self.tensors[name].file
        if file is None:
            raise ModelError(f"tensor '{name}' is not in its file", place=self.folder, fix="fetch the folder again")
        with safe_open(file, framework="pt") as handle:
            return _tensor(handle, name)

    def each(self) -> Iterator[tuple[str, Tensor | None]]:
        """Yield the name and value of every tensor; the value is None if PyTorch does not support its dtype."""
        for file in sorted({info.file for info in self.tensors.values() if info.file is not None}):
            with safe_open(file, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118  (not a mapping)
                    yield name, _tensor(handle, name)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer, or None if it cannot be loaded."""
        try:
            with quiet_transformers():
                found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                    str(self.folder), trust_remote_code=False
                )
        except Exception:  # Transformers raises many kinds of errors on broken files
            return None
        return found if isinstance(found.model_max_length, int | float) else None

    def render(self, turns: Sequence[Mapping[str, str]], *, opened: bool = False) -> str:
        """Render a conversation with the chat template.

        Args:
            turns: the turns, each with ``role`` and ``content``.
            opened: whether to add the generation prompt.

        Raises:
            ModelError: there is no tokenizer or no template, or the template raises an error.
        """
        if self.tokenizer is None:
            raise ModelError("the tokenizer cannot be loaded", place=self.folder, fix="save it into the folder")
        try:
            template = GuardedTemplate(str(self.tokenizer.get_chat_template()))
            messages = [dict(turn) for turn in turns]
            return template.render(self.tokenizer, messages, date=None, place="chat template", opened=opened)
        except Exception as exc:  # a template is foreign code and can raise anything
            reason = f"{type(exc).__name__}: {' '.join(str(exc).split())}"
            raise ModelError(f"the chat template raises an error ({short(reason, 200)})", place=self.folder) from None

    @cached_property
    def expected(self) -> Expected | None:
        """The model that Transformers would build, or None if the configuration is incomplete or needs remote code."""
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
    """Read the files of a model, without its weights.

    Args:
        name: a model or run folder of facetrm, a Hugging Face folder, or ``hf://owner/name``.

    Raises:
        ModelError: the folder or model does not exist.
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
    """Return whether the ``forward`` of a model class reads ``pad_token_id`` to find the last token."""
    try:
        return "pad_token_id" in inspect.getsource(cast(Any, kind).forward)
    except (OSError, TypeError):
        return True


def names_in(value: object) -> list[str]:
    """Return the strings in a JSON list; an empty list if ``value`` is not a list."""
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
        unreadable.append(f"{path.name} does not hold a JSON object")
        return {}
    return value


def _tensors(folder: Path, unreadable: list[str]) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118
                    found[name] = TensorInfo(tuple(handle.get_slice(name).get_shape()), file)
        except Exception as exc:  # safetensors raises several kinds of errors, including a bare one of its own
            unreadable.append(f"{file.name} is not a complete safetensors file ({' '.join(str(exc).split())[:80]})")
    index = _json(folder / _INDEX, unreadable).get("weight_map")
    if isinstance(index, dict):
        found = {str(name): TensorInfo((), None) for name in index if name not in found} | found
    return found
