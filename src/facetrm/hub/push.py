"""Models to the Hub: the folder, its card, nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from facetrm.core.errors import ModelError
from facetrm.hub.card import write_card
from facetrm.hub.export import export_published
from facetrm.model.reward_model import RewardModel


def push_to_hub(
    model: RewardModel,
    repo_id: str,
    *,
    layout: Literal["facetrm", "armorm"] = "facetrm",
    metrics: Mapping[str, Any] | None = None,
    private: bool | None = None,
    revision: str | None = None,
    api: HfApi | None = None,
) -> str:
    """Upload ``model`` with its backbone and a model card, and return the address of the commit.

    Files of an earlier upload that this one does not have are deleted there.

    Args:
        model: what is uploaded.
        repo_id: ``user/name``; made if it is not there.
        layout: our own folder, or ArmoRM's (see :func:`~facetrm.hub.export.export_published`).
        metrics: the content of the run's ``metrics.json``, for the card.
        private: whether a new repository is private; None is the account's default.
        revision: a branch; the main one by default.
        api: another endpoint or token than the library's own.

    Raises:
        ModelError: the Hub refuses, is not to be reached, or the name is none.

    Example:
        >>> from pathlib import Path
        >>> from shutil import copytree
        >>> from tempfile import mkdtemp
        >>> from types import SimpleNamespace
        >>> from facetrm import push_to_hub, toy_model
        >>> class FolderApi:  # a folder in place of the Hub, so that no token is needed
        ...     place = Path(mkdtemp())
        ...     def create_repo(self, repo_id, **options): ...
        ...     def upload_folder(self, *, repo_id, folder_path, **options):
        ...         copytree(folder_path, self.place / repo_id)
        ...         return SimpleNamespace(commit_url=f"folder:{repo_id}")
        >>> push_to_hub(toy_model(), "owner/name", api=FolderApi())
        'folder:owner/name'
        >>> (FolderApi.place / "owner/name/README.md").exists()
        True
    """
    api = api or HfApi()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        if layout == "armorm":
            export_published(model, folder)
        else:
            model.save(folder, backbone="copy")
        write_card(folder, model, metrics=metrics, name=repo_id)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True, repo_type="model")
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message="Upload a facetrm reward model",
                delete_patterns="*",  # what an earlier upload left would be read with this one
            )
        except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as exc:
            reason = " ".join(str(exc).split())[:300]
            raise ModelError(
                f"the upload failed ({type(exc).__name__}: {reason})",
                place=repo_id,
                fix="check the name, the network, and that 'hf auth login' gave a token that may write",
            ) from None
    return str(commit.commit_url)
