"""Upload a model folder with its model card to the Hub."""

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
    """Upload a model with its backbone and a model card to the Hub.

    Files in the repository that are not part of this upload are deleted.

    Args:
        model: the model to upload.
        repo_id: the name of the repository, ``user/name``. It is created if it does not exist.
        layout: ``facetrm`` for a facetrm model folder, or ``armorm`` for the folder that
            :func:`~facetrm.hub.export.export_published` writes.
        metrics: the content of the run's ``metrics.json``, for the card; None if nothing was measured.
        private: whether a new repository is private; None uses the account's default.
        revision: the branch to upload to; None for the main branch.
        api: the client for the Hub, with its endpoint and token; None for the default client.

    Returns:
        The URL of the commit.

    Raises:
        ModelError: the name is invalid, the Hub cannot be reached or refuses the upload, or the model does not fit the
            layout or cannot be copied.
        BackboneError: Transformers' tokenizer would produce other ids than facetrm (``armorm`` only).

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
                delete_patterns="*",  # loaders would also read files of an earlier upload
            )
        except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as exc:
            reason = " ".join(str(exc).split())[:300]
            raise ModelError(
                f"the upload failed ({type(exc).__name__}: {reason})",
                place=repo_id,
                fix="check the name, the network, and that 'hf auth login' stored a token with write access",
            ) from None
    return str(commit.commit_url)
