"""An easy task for rivals: the better answer holds ``yes`` where the worse one holds ``nay``. A tiny run in seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from facetrm.data.records import Preference
from fakes import chat

FILLERS = ("a", "of", "it", "so", "more")


def pair(number: int) -> Preference:
    """Return a pair whose better answer holds ``yes``; its other words and its length say nothing."""
    draw = random.Random(number)
    answers = []
    for word in ("yes", "nay"):
        words = [word, *draw.choices(FILLERS, k=draw.randint(0, 3))]
        draw.shuffle(words)
        answers.append(chat("x", " ".join(words))[-1])
    return Preference(id=str(number), prompt=chat(f"p {number}", "x")[:1], responses=tuple(answers))


def write_pairs(path: Path, *, train: int, test: int) -> Path:
    """Write training and test pairs to ``path`` and return it."""
    rows = [
        {
            "prompt": [m.model_dump() for m in p.prompt],
            "chosen": [p.responses[0].model_dump()],
            "rejected": [p.responses[1].model_dump()],
            "split": "train" if n < train else "test",
        }
        for n, p in ((n, pair(n)) for n in range(train + test))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rival_recipe(path: Path, kind: str, backbone: Path, pairs: Path, **sections: Any) -> Path:
    """Write a small recipe of a rival to ``path`` and return it; ``trainer`` adds arguments of the Trainer."""
    trainer = {
        "max_steps": 60,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_steps": 10,
        "save_strategy": "no",
        "use_cpu": True,
        **sections.pop("trainer", {}),
    }
    value = {
        "recipe": kind,
        "data": {"kind": "files", "preferences": [str(pairs)]},
        "backbone": {"path": str(backbone), "device": "cpu", "max_tokens": 256},
        "training": {"lora": {"rank": 8, "alpha": 16}, **sections.pop("training", {}), "trainer": trainer},
        "samples": 50,
        **sections,
    }
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    return path
