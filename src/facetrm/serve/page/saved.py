"""``POST /v1/edited-models``: write the served model with other weights to a folder below ``--save-folder``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from facetrm.core.errors import FacetrmError
from facetrm.core.progress import log
from facetrm.model.reward_model import RewardModel
from facetrm.serve.refusals import RefusalError
from facetrm.serve.schema.asked import EditedBody
from facetrm.serve.served import REFUSED, Served, edited, service_of

saved_router: Final = APIRouter(tags=["page"])

_SAVED: Final[dict[int | str, dict[str, Any]]] = {
    **{status: said for status, said in REFUSED.items() if status != 504},
    403: {**REFUSED[404], "description": "The server saves no models."},
    409: {**REFUSED[404], "description": "There is a folder of this name already."},
}


class SaveRequest(EditedBody):
    """An edit of the served model, and the name of the folder that it is written to."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "kinder", "objective_weights": {}, "mask": ["verbose"]}]}
    )

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")] = Field(
        description="Letters, digits, '-' and '_'; the folder must not exist."
    )


class SavedBody(BaseModel):
    """The model that was written."""

    folder: str
    hash: str = Field(description="Hash of the edited model.")
    unedited_hash: str = Field(description="Hash of the served model.")
    edits: list[dict[str, Any]] = Field(description="The edits, as its manifest records them.")


@saved_router.post("/v1/edited-models", responses=_SAVED)
async def save_edited(body: SaveRequest, request: Request) -> SavedBody:
    """Save the served model with an edit as a model folder, whose manifest records the edit."""
    served: Served = request.app.state.served
    folder = served.page.save_folder
    if folder is None:
        raise RefusalError(403, "this server saves no models", fix="start it with --save-folder FOLDER")
    service = service_of(request)
    asked, model = await edited(request, body)
    if not asked:
        raise RefusalError(422, "nothing is changed", code="edit", fix="change a weight or drop an objective first")
    place = folder / body.name
    await asyncio.get_running_loop().run_in_executor(None, _write, model, place)
    log("saved", folder=str(place), hash=model.hash[:12])
    return SavedBody(
        folder=str(place), hash=model.hash, unedited_hash=service.hash, edits=list(model.provenance.get("edits", []))
    )


def _write(model: RewardModel, place: Path) -> None:
    """Write the model to a folder that does not exist; making it is what claims the name."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir()
    except FileExistsError:
        raise RefusalError(409, f"there is a '{place.name}' already", code="exists", fix="give another name") from None
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        raise RefusalError(500, f"the folder cannot be made: {why}", fix="give another --save-folder") from None
    try:
        model.save(place)
    except (FacetrmError, OSError) as exc:
        if not any(place.iterdir()):
            place.rmdir()
        raise RefusalError(500, f"the model cannot be written: {exc}", code="not_saved") from None
