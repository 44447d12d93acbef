"""Write the model card: objectives, scales, data licences, measurements and limits."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import jinja2
from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup

import facetrm.data.sources.load  # noqa: F401  (registers the sources)
from facetrm.backbone.encoder import Layer, shown_layers
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.files import write_text
from facetrm.data.objectives import Objective
from facetrm.data.sources.registry import SOURCES
from facetrm.model.aggregate import GatedSum
from facetrm.model.door import CONFIG
from facetrm.model.reward_model import RewardModel
from facetrm.model.validity import validity_of

CARD: Final = "README.md"
_HUB_LICENCES: Final = frozenset({"mit", "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0"})
_SYSTEMS: Final = {
    "model": "this model",
    "routed": "this model",
    "gate": "this model",
    "task_rm": "the task's adapter alone",
    "mean_of_experts": "the mean of the experts' ratings",
    "reward": "this model",
    "frozen_preference": "a linear Bradley-Terry head on the frozen trunk",
    "unconditional": "weights that do not depend on the prompt",
    "linear_bt": "a linear Bradley-Terry head on the same features",
    "best_objective": "the best single objective",
    "longer": "the longer answer wins",
}
_MARKUP: Final = re.compile(r"([\\`*\[\]|#~])")
_LINKS: Final = re.compile(r"(?<=\w)://|(?<=\b[wW]{3})\.")


def escape_markdown(text: object) -> str:
    """Return ``text`` escaped for a card, so that foreign names cannot add HTML, images, links, cells or lines.

    Args:
        text: the value to escape. ``markupsafe.Markup`` counts as safe and is left unchanged.
    """
    if isinstance(text, Markup):
        return str(text)
    plain = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c for c in str(text))
    marked = _MARKUP.sub(r"\\\1", escape(plain, quote=False))
    return _LINKS.sub(lambda found: "".join(f"&#{ord(c)};" for c in found.group()), marked)


_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("facetrm.hub"),
    undefined=jinja2.StrictUndefined,
    autoescape=False,
    trim_blocks=False,
    finalize=escape_markdown,
)


def write_card(
    folder: str | Path, model: RewardModel, *, metrics: Mapping[str, Any] | None = None, name: str | None = None
) -> Path:
    """Write a model card to ``README.md`` in a model folder.

    Args:
        folder: the model folder; an existing card in it is replaced.
        model: the model to describe.
        metrics: the content of the run's ``metrics.json``; None if nothing was measured.
        name: the name by which users load the model, such as ``user/model``; None for the folder's name.

    Returns:
        The path of the card.

    Raises:
        OSError: the card cannot be written.
    """
    folder = Path(folder)
    text = _TEMPLATES.get_template("card.md.j2").render(_content(folder, model, metrics or {}, name or folder.name))
    write_text(folder / CARD, text.rstrip() + "\n")
    return folder / CARD


def _content(folder: Path, model: RewardModel, metrics: Mapping[str, Any], place: str) -> dict[str, Any]:
    objectives = list({o.name: o for mixture in model.mixtures.values() for o in mixture.objectives}.values())
    licences, unknown = _licences(objectives)
    encoder = model.encoder
    decoder = isinstance(encoder, TransformerEncoder) and encoder.kind == "decoder"
    validity = validity_of(model.provenance)
    spec, mixture = encoder.spec(), next(iter(model.mixtures.values()))
    backbone = str(spec.get("path", spec.get("kind", "-")))
    accuracy, rated = _accuracy(metrics), _rated(metrics)
    versions = ", ".join(f"{key} {value}" for key, value in metrics.get("versions", {}).items() if key != "threads")
    return {
        "front": Markup(_front(licences, unknown, place, backbone, accuracy).strip()),
        "title": place,
        "command": Markup(shlex.quote(_one_line(place)).replace("`", "'")),
        "python": Markup(json.dumps(place)),
        "python_door": Markup(json.dumps(_door_place(folder, place))),
        "local": "/" not in place,
        "objectives": [_row(o) for o in objectives],
        "licences": licences,
        "unknown": ", ".join(unknown),
        "door": (folder / CONFIG).exists(),
        "backbone": Path(backbone).name if Path(backbone).is_absolute() else backbone,
        "reads": _reads(decoder=decoder, adapters=len(model.adapters), layers=model.layers),
        "tasks": _tasks(model),
        "fallback": None if model.fallback is None else model.fallback.to_dict(),
        "limit": f"{encoder.max_tokens} tokens, {_truncation(encoder)}"
        if isinstance(encoder, TransformerEncoder)
        else "no limit",
        "heads": "in float32, whatever the dtype of the backbone",
        "beta": mixture.beta,
        "template": encoder.template_hash,
        "hash": model.hash,
        "accuracy": accuracy,
        "verdict": metrics.get("verdict", {}).get("statement"),
        "lines": [line for part in ("evidence", "warnings") for line in metrics.get("verdict", {}).get(part, ())],
        "validity": {n: v.words if v.measurable else f"no: {v.words}" for n, v in validity.items()},
        "unproven": [o.name for o in objectives if o.name in validity and not validity[o.name].measurable],
        "pairs": metrics.get("rows", {}).get("preferences_test"),
        "rated": rated,
        "rho": metrics.get("debias", {}).get("max_abs_rho"),
        "rho_held_out": metrics.get("debias", {}).get("max_abs_rho_held_out"),
        "target": metrics.get("debias", {}).get("target"),
        "versions": versions,
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _door_place(folder: Path, place: str) -> str:
    """Return the folder that Transformers loads: the model folder inside a run folder, or a Hub name unchanged."""
    return place if "/" in place or folder.name == place else f"{place}/{folder.name}"


def _reads(*, decoder: bool, adapters: int, layers: Sequence[Layer] = ()) -> str:
    if not decoder:
        reads = "prompt and response as a pair, averaged over tokens"
    else:
        reads = "the last token of the rendered conversation; for the gate, the token that closes the prompt"
    if layers:
        reads = f"{reads}; each expert reads one layer of the backbone ({shown_layers(layers)}), the gate the last"
    return (
        f"{reads}; each expert uses its own adapter ({adapters} in total), the prompt is read without adapters"
        if adapters
        else reads
    )


def _tasks(model: RewardModel) -> list[dict[str, Any]]:
    """Return one row per task; no rows for a model with a single task and no adapters."""
    if len(model.mixtures) == 1 and not model.adapters:
        return []
    sums = {True: "a gated sum of ratings", False: "a network on the experts' vectors, split by Shapley values"}
    return [
        {
            "name": task,
            "objectives": ", ".join(mixture.names),
            "reward": sums[isinstance(mixture.aggregator, GatedSum)],
            "beta": mixture.beta,
        }
        for task, mixture in model.mixtures.items()
    ]


def _truncation(encoder: TransformerEncoder) -> str:
    return (
        "longer ones are refused" if encoder.config.truncation == "error" else "the oldest part of longer ones is cut"
    )


def _row(objective: Objective) -> dict[str, Any]:
    better = {"higher": "higher", "lower": "lower", "unknown": "unknown: never weighted by the gate"}
    return {**objective.model_dump(), "better": better[objective.direction]}


def _licences(objectives: list[Objective]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Return (source, Hub name, licence) of each source in the registry, and the names of the other sources."""
    known: list[tuple[str, str, str]] = []
    unknown: list[str] = []
    for name, rater in {o.source: o.rater for o in objectives if o.source}.items():
        if name in SOURCES:
            known.append((name, SOURCES[name].hub, SOURCES[name].licence))
        elif rater == "simulated":
            known.append((name, "-", "none needed: generated by facetrm"))
        elif name not in ("counted", "the checkpoint"):
            unknown.append(name)
    return known, unknown


def _accuracy(metrics: Mapping[str, Any]) -> list[tuple[str, float, float, float]]:
    table = metrics.get("pair_accuracy", {})
    values, intervals = table.get("noisy", {}), table.get("intervals", {}).get("noisy", {})
    found = []
    for key, title in _SYSTEMS.items():
        value = values.get(key)
        if key == "gate" and "routed" in values:
            title = "one gate for all tasks"
        if isinstance(value, dict):
            found.append((title, value["value"], value["low"], value["high"]))
        elif value is not None:
            found.append((title, value, *intervals[key]))
    return found


def _rated(metrics: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    found = metrics.get("objectives_test") or metrics.get("objectives", {})
    return [(name, row["spearman"], row["held_out"]) for name, row in found.items() if row["spearman"] is not None]


def _front(
    licences: list[tuple[str, str, str]],
    unknown: list[str],
    place: str,
    backbone: str,
    accuracy: list[tuple[str, float, float, float]],
) -> str:
    """Return the YAML front matter for the Hub."""
    names = {licence.lower() for _, _, licence in licences}
    one = names.pop() if len(names) == 1 and not unknown else None
    results = None
    if accuracy:
        results = [
            EvalResult(
                task_type="text-classification",
                task_name="choosing the preferred answer",
                dataset_type="held-out",
                dataset_name="held-out pairs of the run",
                metric_type="accuracy",
                metric_value=round(accuracy[0][1], 4),
            )
        ]
    data = ModelCardData(
        license=one if one in _HUB_LICENCES else "other",
        library_name="facetrm",
        tags=["reward-model", "rlhf", "interpretability", "mixture-of-experts"],
        datasets=[hub for _, hub, _ in licences if hub != "-"] or None,
        base_model=backbone if backbone.count("/") == 1 and not backbone.startswith((".", "/", "~")) else None,
        pipeline_tag="text-classification",
        model_name=place if results else None,
        eval_results=results,
    )
    return data.to_yaml()
