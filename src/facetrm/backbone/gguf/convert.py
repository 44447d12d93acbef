"""Dequantises a GGUF file into a folder that Transformers and facetrm read like any other.

Transformers maps the tensors and the settings. What it does without a word is checked here: a tensor that is missing
would be made at random, a tensor or a setting that it does not know would be left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast, integrations

from facetrm.backbone.gguf.cache import cached, sha256_of
from facetrm.backbone.gguf.header import Header, alone, read_header
from facetrm.backbone.gguf.origin import ORIGIN, origin
from facetrm.backbone.gguf.rope import rope_settings
from facetrm.backbone.gguf.tokenizer import pre_tokenizer_problem, read_tokenizer
from facetrm.core.errors import short
from facetrm.core.progress import log

_SETTINGS: Final[dict[str, dict[str, str | None]]] = getattr(integrations, "GGUF_CONFIG_MAPPING", {})
_CONVERSION: Final = 1  # increase it whenever the same file would give another folder
_GIVE: Final = "give the model as a folder of safetensors"
_HARMLESS: Final = frozenset(
    {
        "attention.key_length",  # widths and counts that the shapes of the tensors confirm
        "attention.value_length",
        "expert_count",
        "rope.dimension_count",
        "tensor_data_layout",
        "use_parallel_residual",
        "vocab_size",
    }
)


def converted(path: Path) -> Path:
    """Return the folder with the dequantised model of a GGUF file; the first call writes it to the cache.

    Args:
        path: path of the file.

    Raises:
        BackboneError: The file is broken, of an architecture that Transformers does not read, or not wholly read by it.
    """
    path = path.absolute()
    digest = sha256_of(path)

    def write(folder: Path) -> None:
        log("backbone", dequantising=path.name, into=str(folder.parent))
        _write(read_header(path), folder, digest=digest)

    return cached(f"{digest}-v{_CONVERSION}", write, what=path.name)


def _write(header: Header, folder: Path, *, digest: str) -> None:
    tokenizer = read_tokenizer(header)
    rope, spare = rope_settings(header)
    model = _loaded(header)
    _check_numbers(model, header, spare=spare)
    warnings = [w for w in (pre_tokenizer_problem(header), _unread(header)) if w is not None]
    _clean(model, rope)
    setattr(model.config, ORIGIN, origin(digest, warnings))
    model.save_pretrained(folder)
    del model
    tokenizer.save_pretrained(folder)
    _check_written(tokenizer, folder, header)


def _loaded(header: Header) -> PreTrainedModel:
    """Return the model in float32, with every tensor from the file."""
    try:
        with _without_bar(), alone(header.path) as (folder, name):
            model, report = cast(Any, AutoModelForCausalLM).from_pretrained(
                folder,
                gguf_file=name,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                trust_remote_code=False,
            )
    except Exception as exc:  # the loaders raise anything
        text = " ".join(str(exc).split())[:300]
        known = header.architecture in _SETTINGS
        raise header.wrong(
            f"architecture {short(header.architecture)} cannot be read ({type(exc).__name__}: {text})",
            fix="download the file again, or " + _GIVE if known else _GIVE + ", or a newer Transformers may read it",
        ) from None
    for what, key in (("missing", "missing_keys"), ("of another shape", "mismatched_keys")):
        names = sorted(name[0] if isinstance(name, tuple) else name for name in report[key])
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise header.wrong(f"tensors {what}: {', '.join(names[:3])}{more}", fix=f"download it again, or {_GIVE}")
    return cast(PreTrainedModel, model)


@contextmanager
def _without_bar() -> Iterator[None]:
    """Silence the loader's progress bar, which no setting of Transformers does; the caller holds the lock for this."""
    loader: Any = None
    with suppress(ImportError):  # another Transformers may load these files by other means
        from transformers import modeling_gguf_pytorch_utils as loader
    before = getattr(loader, "tqdm", None)
    if before is not None:
        loader.tqdm = partial(before, disable=True)
    try:
        yield
    finally:
        if before is not None:
            loader.tqdm = before


def _check_numbers(model: PreTrainedModel, header: Header, *, spare: frozenset[str]) -> None:
    """Refuse a file with tensors that the model did not take: every number of the file is a number of the model."""
    stored = sum(tensor.numbers for name, tensor in header.tensors.items() if name not in spare)
    taken = sum(parameter.numel() for parameter in model.parameters())
    if stored != taken:
        names = sorted(set(header.tensors) - spare - set(_known_tensors(model, header)))
        told = f" (such as {', '.join(short(name) for name in names[:3])})" if names else ""
        raise header.wrong(
            f"the tensors hold {stored:,} numbers, but a {model.config.model_type} model takes {taken:,}{told}: its "
            "scores would be wrong",
            fix=_GIVE,
        )


def _known_tensors(model: PreTrainedModel, header: Header) -> Iterator[str]:
    """Yield the names in the file that the model's tensors have."""
    number = next((key for key, name in MODEL_ARCH_NAMES.items() if name == header.architecture), None)
    if number is None:
        return
    names = get_tensor_name_map(number, model.config.get_text_config().num_hidden_layers)
    for name in model.state_dict():
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is not None:
            yield found


def _unread(header: Header) -> str | None:
    """Return which settings of the architecture nothing reads, in one sentence; None if there are none."""
    known = _SETTINGS.get(header.architecture)
    if known is None:
        return None
    prefix = f"{header.architecture}."
    keys = [key.removeprefix(prefix) for key in header.settings if key.startswith(prefix)]
    left = sorted(key for key in keys if key not in known and key not in _HARMLESS and not key.startswith("rope.scal"))
    if not left:
        return None
    more = f" and {len(left) - 5} more" if len(left) > 5 else ""
    return f"settings of the GGUF file that Transformers does not read: {', '.join(map(short, left[:5]))}{more}"


def _clean(model: PreTrainedModel, rope: dict[str, Any] | None) -> None:
    """Take off what says that the model is quantised, which Transformers would refuse to save, and the file's title."""
    cast(Any, model).hf_quantizer = None
    for name in ("is_quantized", "quantization_method"):
        if hasattr(model, name):
            setattr(model, name, False if name == "is_quantized" else None)
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.config._name_or_path = ""
    if rope is not None:
        model.config.rope_parameters = {**model.config.rope_parameters, **rope}


def _check_written(tokenizer: PreTrainedTokenizerFast, folder: Path, header: Header) -> None:
    """Check that Transformers reads the same tokenizer from the folder; for some architectures it makes another one."""
    written = AutoTokenizer.from_pretrained(folder)
    same = written.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    if not same or written.special_tokens_map != tokenizer.special_tokens_map:
        raise header.wrong("Transformers reads another tokenizer from the converted folder", fix=_GIVE)
    if written.chat_template != tokenizer.chat_template:
        raise header.wrong("Transformers reads another chat template from the converted folder", fix=_GIVE)
