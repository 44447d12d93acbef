"""Loading Hugging Face folders with checks: a missing or unknown tensor is an error.

Transformers initialises missing tensors at random and only prints a report; here that is an error. Heads in the
checkpoint (a language-model head, a score head) are left out on purpose.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER
from transformers.utils import logging

from facetrm.backbone.declared import check_code, check_files, check_numbers, check_sizes, tensor_shapes
from facetrm.backbone.exclusive import making
from facetrm.backbone.gguf.named import NAMED
from facetrm.backbone.gguf.origin import ORIGIN
from facetrm.backbone.gguf.places import readable_place
from facetrm.core.errors import BackboneError
from facetrm.core.files import read_json
from facetrm.core.fingerprint import fingerprint

TrunkKind = Literal["decoder", "encoder"]

_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "*.tiktoken",
)
# Configuration keys that concern the file or the heads, not the features.
_VOLATILE: Final = frozenset(
    {
        "_name_or_path",
        "architectures",
        "auto_map",
        "bos_token_id",
        ORIGIN,
        "dtype",
        "eos_token_id",
        "id2label",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the loader's reports and progress bars in the block; what matters in them is raised as an error.

    The settings are global to the process, so only one thread at a time changes them.
    """
    with making:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(CRITICAL)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                cast(Any, logging).enable_progress_bar()


def load_checkpoint(
    path: str, *, dtype: torch.dtype, device: torch.device, trust_remote_code: bool, revision: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the trunk, in evaluation mode, and the tokenizer of a model folder or a model on the Hub.

    Args:
        path: model folder, GGUF file, name of a backbone, or ``hf://owner/name`` for a model on the Hub.
        dtype: data type that the weights are cast to.
        device: device to load the weights to.
        trust_remote_code: whether code that comes with the model may run.
        revision: commit or branch on the Hub, or None.

    Raises:
        BackboneError: The folder or a file is missing or broken, a tensor is missing, has the wrong shape or is unknown
            to the architecture, or the tokenizer produces ids that the model does not have.
    """
    path, shapes = find_checkpoint(path, revision=revision, trusted=trust_remote_code)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    with quiet_transformers(), _explained(path):
        config = AutoConfig.from_pretrained(path, **options)
        if getattr(config, "is_encoder_decoder", False):
            raise BackboneError(
                f"'{config.model_type}' is an encoder-decoder", place=path, fix="give a decoder or an encoder"
            )
        if not trust_remote_code:
            check_numbers(config, shapes, BackboneError, place=path)
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        _check_limit(tokenizer, path)
        # Tensors of the wrong shape are accepted here so that the report names them; they are refused below.
        options.update(output_loading_info=True, ignore_mismatched_sizes=True)
        model, report = AutoModel.from_pretrained(path, config=config, dtype=dtype, **options)
    _check_report(model, report, path)
    rows, ids = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values(), default=-1)
    if ids >= rows:
        raise BackboneError(
            f"the tokenizer produces ids up to {ids}, the model has {rows}",
            place=path,
            fix="use the tokenizer that was saved with this model",
        )
    _keep_caps(model)
    return cast(PreTrainedModel, model.to(device).eval()), tokenizer


def find_checkpoint(path: str, *, revision: str | None, trusted: bool) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Return what Transformers loads a backbone from, after checking the files of a folder.

    Args:
        path: model folder, GGUF file, name of a backbone, or ``hf://owner/name`` for a model on the Hub.
        revision: commit or branch on the Hub, or None.
        trusted: whether code that comes with the model may run.

    Returns:
        A folder or a name on the Hub, and the shapes of a folder's tensors (none for a name on the Hub).

    Raises:
        BackboneError: There is no such folder, or its files are incomplete, broken or need code.
    """
    with quiet_transformers():
        path = readable_place(path, revision=revision)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder), _check_folder(folder, trusted=trusted)
    if (name := name_on_hub(path)) is not None:
        return name, {}
    if folder.exists() or looks_like_a_folder(path):
        raise BackboneError(
            "no such folder",
            place=path,
            fix="give a folder with config.json, a GGUF file, hf://owner/name for a model on the Hub, or a known name "
            f"({', '.join(NAMED)})",
        )
    return path, {}


def name_on_hub(place: str) -> str | None:
    """Return ``owner/name`` from ``hf://owner/name``; None if ``place`` has another form."""
    found = re.fullmatch(r"hf:/{1,2}([^/].*)", place)  # pathlib.Path merges the two slashes into one
    return None if found is None else found[1].rstrip("/")


def looks_like_a_folder(place: str) -> bool:
    """Return whether ``place`` can only be a local folder, so it is never looked up on the Hub."""
    parts = place.split("/")
    return place.startswith((".", "~", os.sep)) or place.endswith("/") or len(parts) != 2 or Path(parts[0]).exists()


def _keep_caps(model: PreTrainedModel) -> None:
    """Select an attention implementation with soft-capping (Gemma 2): Transformers 5.0 picks one without it."""
    text = model.config.get_text_config()
    if getattr(text, "attn_logit_softcapping", None) and text._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")


def device_named(name: str, *, place: str) -> torch.device:
    """Return the device ``name``; ``auto`` selects a GPU if there is one.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        place: model to be loaded, for the error message.

    Raises:
        BackboneError: it is not there.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as exc:
        reason = str(exc).splitlines()[0]
        raise BackboneError(
            f"device '{name}' is not there ({reason})", place=place, fix="set backbone.device: auto"
        ) from None
    return device


def model_kind(config: PretrainedConfig, *, place: str) -> TrunkKind:
    """Return whether a model is a decoder (causal) or an encoder (bidirectional).

    Args:
        config: configuration of the model.
        place: folder or name of the model, for the error message.

    Raises:
        BackboneError: The configuration does not say.
    """
    if getattr(config, "use_bidirectional_attention", False):
        return "encoder"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return "encoder"
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    raise BackboneError(f"'{config.model_type}' may be causal or bidirectional", place=place, fix="set backbone.kind")


def weights_fingerprint(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> str:
    """Return one sha256 over the trunk's tensors and the settings of its architecture.

    It is the same for a model and its saved copy, for any division into files, and with or without a head.

    Args:
        model: model whose architecture settings are hashed.
        tensors: tensors of the trunk by name.
    """
    settings = {k: v for k, v in model.config.to_dict().items() if k not in _VOLATILE}
    known = {"tensors": tensors_fingerprint(tensors), "settings": _plain(settings)}
    code = _code_of(model)
    return fingerprint(known | {"code": code} if code else known)


def weights_state(state: Mapping[str, Tensor]) -> str:
    """Return a cheap hash of a state dict that changes when tensors are trained, cast or replaced.

    It is not a fingerprint: only 64 numbers spread over each tensor are hashed.
    """
    tensors = [tensor.detach().reshape(-1) for tensor in state.values() if tensor.numel()]
    drawn = torch.cat([tensor[:: max(1, len(tensor) // 64)][:64].double().cpu() for tensor in tensors])
    versions = [(str(tensor.dtype), len(tensor), tensor._version) for tensor in tensors]
    return fingerprint([sorted(state), versions, hashlib.sha256(drawn.numpy().tobytes()).hexdigest()])


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return one sha256 over the names, dtypes, shapes and bytes of ``tensors``."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _code_of(model: PreTrainedModel) -> dict[str, str]:
    """Return the source code that came with a model, by file name; empty for a model from Transformers."""
    module = sys.modules[type(model).__module__]
    if not module.__name__.startswith("transformers_modules.") or module.__file__ is None:
        return {}
    return {file.name: file.read_text(encoding="utf-8") for file in sorted(Path(module.__file__).parent.glob("*.py"))}


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return one sha256 over everything in the tokenizer that determines the ids of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if backend is None else backend.to_str()
    return fingerprint({"rules": rules, "special": _plain(tokenizer.special_tokens_map)})


def token_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the maximum number of tokens stated by model and tokenizer; None if neither states one."""
    stated = [tokenizer.model_max_length, position_limit(model)]
    known = [int(n) for n in stated if isinstance(n, int | float) and 0 < n < 10**9]
    return min(known) if known else None


def position_limit(model: PreTrainedModel) -> int | None:
    """Return the number of token positions of a model, or None if its configuration does not say.

    RoBERTa-like models start after the padding position, so 514 positions hold 512 tokens.
    """
    stated = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(stated, int) or stated <= 0:
        return None
    tables = (
        m for name, m in model.named_modules() if name.endswith("position_embeddings") and hasattr(m, "padding_idx")
    )
    return stated - max((int(m.padding_idx) + 1 for m in tables if m.padding_idx is not None), default=0)


def _check_folder(folder: Path, *, trusted: bool) -> dict[str, tuple[int, ...]]:
    """Check the files of a folder, and return the shapes of its tensors."""
    fix = "give a folder written by save_pretrained"
    check_files(folder, BackboneError)
    config = read_json(folder / "config.json", BackboneError, fix=fix)
    if not isinstance(config, dict) or not config.get("model_type"):
        raise BackboneError("no 'model_type', so the architecture is unknown", place=folder / "config.json", fix=fix)
    if not any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin")):
        raise BackboneError("no weights (*.safetensors)", place=folder, fix=fix)
    shapes = tensor_shapes(folder, BackboneError)
    check_sizes(config, shapes, BackboneError)
    if not trusted:
        check_code(config, BackboneError, place=folder / "config.json")
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise BackboneError(
            "no tokenizer (tokenizer.json)", place=folder, fix="save the tokenizer into the same folder"
        )
    return shapes


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turn any exception of the loaders into a :class:`BackboneError`."""
    try:
        yield
    except BackboneError:
        raise
    except Exception as exc:
        text = " ".join(str(exc).split())
        if "trust_remote_code" in text:
            raise BackboneError(
                "needs code that comes with the model",
                place=path,
                fix="read that code, then set backbone.trust_remote_code: true",
            ) from None
        raise BackboneError(
            f"cannot be loaded ({type(exc).__name__}: {text[:300]})",
            place=path,
            fix="give a folder written by save_pretrained, or the name of a model on the Hub",
        ) from exc


def _check_limit(tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Convert the tokenizer's limit to a number: some files store text, which Transformers compares with a number."""
    stated: Any = tokenizer.model_max_length
    try:
        number = float(stated) if isinstance(stated, str) else stated
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError
    except ValueError:
        raise BackboneError(
            f"model_max_length is {repr(stated)[:40]}, which is not a number",
            place=f"{path}: tokenizer_config.json",
            fix="write the number of tokens that the model reads, or remove the line",
        ) from None
    if number is not stated:
        tokenizer.model_max_length = int(number) if math.isfinite(number) else VERY_LARGE_INTEGER


def _check_report(model: PreTrainedModel, report: dict[str, Any], path: str) -> None:
    trunk = {name for name, _ in model.named_children()}
    prefix = f"{model.base_model_prefix}."

    def in_trunk(key: str) -> bool:
        claimed = key.startswith(prefix) and not key.endswith(".inv_freq")
        return claimed or key.split(".")[0] in trunk or "lora_" in key

    _refuse("missing", (k for k in report["missing_keys"] if not k.startswith("pooler.")), path)
    _refuse("of another shape", (k[0] if isinstance(k, tuple) else k for k in report["mismatched_keys"]), path)
    _refuse("unknown to the architecture", (k for k in report["unexpected_keys"] if in_trunk(k)), path)


def _refuse(what: str, keys: Iterable[str], path: str) -> None:
    names = sorted(keys)
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise BackboneError(
            f"tensors {what}: {', '.join(names[:3])}{more}",
            place=path,
            fix="give the weights that belong to this config.json (merge an adapter first)",
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):  # such as an infinite limit, which JSON cannot represent
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
