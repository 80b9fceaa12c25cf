"""Uploading an export to the hub, only where it is asked for; what would fail is found before anything is exported."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub import constants as hub

from grpo.model.loading import is_unreachable
from grpo.monitor.redaction import first_words
from grpo.recipe import RecipeError


def check_push(repo: str) -> None:
    """Refuse a name that is none, a process that is offline, and a user who is not logged in."""
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise RecipeError(f"export: --push names {repo}; a repository is written OWNER/NAME")
    if hub.HF_HUB_OFFLINE:
        raise RecipeError(
            "export: --push needs the hub, and HF_HUB_OFFLINE is set; unset it, or leave --push out and upload later"
        )
    try:
        HfApi().whoami()
    except Exception as error:  # noqa: BLE001  the hub client raises many kinds; each is for the user to read
        raise RecipeError(_refusal(error)) from None


def push(folder: Path, repo: str) -> str:
    """Upload `folder` to `repo`, which is made private if it is not there yet; returns its address."""
    api = HfApi()
    try:
        address = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Exported by grpo-reasoner"
        )
    except Exception as error:  # noqa: BLE001  as above
        raise RecipeError(f"{_refusal(error)}; the export is whole in {folder}") from None
    return str(address)


def _refusal(error: Exception) -> str:
    words = first_words(error)
    if is_unreachable(str(error)):
        return f"export: --push: the hub cannot be reached ({words})"
    if any(word in str(error).lower() for word in ("token", "401", "unauthorized", "log in")):
        return f"export: --push: the hub does not know you ({words}); log in with: hf auth login"
    return f"export: --push: the hub refused ({words})"
