"""The tables of docs/methods/world.md, made from the code."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from facetrm.data.synthetic.raters import Rater
from facetrm.data.world import TASKS
from facetrm.data.world.latents import LATENT_NAMES, LATENTS, Scene
from facetrm.data.world.raters import RATERS
from facetrm.data.world.truth import TASK_WEIGHTS
from facetrm.data.world.words import LEADS

_SCENE = Scene("code", ("river", "candle"), "poet", "friend")


def tables() -> dict[str, str]:
    """Return every generated table by the name of its markers."""
    return {"tasks": _tasks(), "latents": _latents(), "raters": _raters(), "weights": _weights()}


def _tasks() -> str:
    return table(("task", "how its prompts end"), [(task, "; ".join(LEADS[task])) for task in TASKS])


def _latents() -> str:
    rows = []
    for latent in LATENTS:
        good, bad = (" . ".join(latent.write(Random(1), _SCENE, level)) for level in (latent.slots, 0))
        rows.append((latent.name, latent.meaning, f"0..{latent.slots}", f"`{good}`", f"`{bad}`"))
    return table(("latent", "meaning", "levels", "at the highest level", "at level 0"), rows)


def _raters() -> str:
    return raters_table(RATERS, every=TASKS)


def _weights() -> str:
    rows = [(name, *(f"{TASK_WEIGHTS[task][name]:.2f}".replace("0.00", "") for task in TASKS)) for name in LATENT_NAMES]
    return table(("latent", *TASKS), rows)


def raters_table(raters: Sequence[Rater], *, every: Sequence[str]) -> str:
    """What each of ``raters`` rates; ``every`` names all tasks of the generator."""
    rows = [
        (
            r.name,
            ", ".join(r.latents),
            f"{r.low:g}..{r.high:g} {r.kind}" + (", lower is better" if r.direction == "lower" else ""),
            f"{r.noise:g}",
            "all" if r.tasks == every else ", ".join(r.tasks),
        )
        for r in raters
    ]
    return table(("rater", "rates", "scale", "noise", "tasks it saw"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
