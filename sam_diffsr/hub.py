"""Download from and upload to the Hugging Face Hub; the only importer of huggingface_hub.

The client reads HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and the like when it is imported, which is
why it is imported inside the functions; none of them is ever set here.
"""

from __future__ import annotations

import re
from pathlib import Path

from sam_diffsr.errors import ModelLoadError, OutputError

__all__ = ["download_model", "push_folder"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LIBRARY = "sam_diffsr"


def download_model(
    repo_id: str,
    filenames: tuple[str, ...],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> tuple[Path, ...]:
    """Fetch files of one model repository, all from one commit, through the client's cache.

    Args:
        repo_id: ``"owner/name"``.
        filenames: the files wanted, below ``subfolder``.
        revision: branch, tag or commit; None is ``main``.
        subfolder: folder inside the repository.
        cache_dir: instead of the client's own cache folder.
        token: access token; None uses the one that is logged in, False none.
        force_download: fetch again what is already in the cache.
        local_files_only: never use the network.

    Returns:
        Local paths, in the order of ``filenames``.

    Raises:
        ModelLoadError: the repository, revision or a file does not exist, access is refused, the network
            or the download fails, or the file is not cached and the network may not be used.
    """
    import huggingface_hub

    from sam_diffsr import __version__

    paths: list[Path] = []
    commit = revision
    for filename in filenames:
        try:
            path = huggingface_hub.hf_hub_download(
                repo_id,
                filename,
                subfolder=subfolder,
                revision=commit,
                cache_dir=cache_dir,
                token=token,
                force_download=force_download,
                local_files_only=local_files_only,
                library_name=_LIBRARY,
                library_version=__version__,
            )
        except Exception as error:  # whatever the client or its HTTP library raises: one kind of error out
            reason = _explain(
                error,
                repo_id,
                filename,
                filenames=filenames,
                revision=revision,
                local_files_only=local_files_only,
                force_download=force_download,
            )
            raise ModelLoadError(reason) from error
        paths.append(Path(path))
        commit = _commit_of(paths[-1], depth=len(Path(subfolder or ".").parts)) or commit
    return tuple(paths)


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    commit_message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Create the model repository if need be and upload a folder as one commit.

    Returns:
        Address of the commit (or of the pull request).

    Raises:
        OutputError: the Hub refused or could not be reached.
    """
    import huggingface_hub

    from sam_diffsr import __version__

    try:
        client = huggingface_hub.HfApi(token=token, library_name=_LIBRARY, library_version=__version__)
        repo_id = client.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            client.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = client.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
    except Exception as error:  # as above
        raise OutputError(
            f"cannot push to {repo_id} at {_endpoint()}: {_first_line(error)}; check the name, the network "
            "and that the token (argument token=, or `hf auth login`) may write there"
        ) from error
    return commit.pr_url or commit.commit_url


def _explain(
    error: Exception,
    repo_id: str,
    filename: str,
    *,
    filenames: tuple[str, ...],
    revision: str | None,
    local_files_only: bool,
    force_download: bool,
) -> str:
    """Say what went wrong and what to do, from the most particular error class to the least."""
    from huggingface_hub import constants, utils

    where = f"{repo_id!r} at {_endpoint()}"
    if isinstance(error, utils.HFValidationError):
        return f"{repo_id!r} is no file or folder here, no name of a model, and not a Hub id either: {error}"
    if isinstance(error, utils.GatedRepoError):
        return (
            f"the model {where} is gated: accept its licence at {_endpoint()}/{repo_id}, then pass token= "
            "or run `hf auth login`"
        )
    if isinstance(error, utils.RepositoryNotFoundError):
        return (
            f"there is no file or folder {repo_id!r} here, and no model {where}, or it is private: "
            "check the spelling, and for a private one pass token= or run `hf auth login`"
        )
    if isinstance(error, utils.RevisionNotFoundError):
        return f"the model {where} has no revision {revision!r}: pass a branch, a tag or a full commit hash"
    if isinstance(error, utils.LocalEntryNotFoundError | utils.OfflineModeIsEnabled) or (
        constants.HF_HUB_OFFLINE or local_files_only
    ):
        if constants.HF_HUB_OFFLINE:
            cause = "and HF_HUB_OFFLINE is set: unset it to download, or load a local folder"
        elif local_files_only:
            cause = "and local_files_only=True: leave it out to download, or load a local folder"
        else:
            cause = f"and {_endpoint()} cannot be reached: check the network and HF_ENDPOINT"
        state = "cannot be downloaded again" if force_download else "is not in the local cache"
        return f"{filename} of {repo_id!r} (revision {revision or 'main'}) {state}, {cause}"
    if isinstance(error, utils.EntryNotFoundError):
        return (
            f"the model {where} has no file {filename}: expected {' and '.join(filenames)} "
            "in the repository, or in subfolder="
        )
    return (
        f"the download of {filename} from {where} failed ({_first_line(error)}); "
        "nothing of the unfinished file is used: try again"
    )


def _commit_of(path: Path, *, depth: int) -> str | None:
    """The commit that a cached file belongs to, from ``.../snapshots/<commit>/<subfolder>/<file>``."""
    name = path.parents[depth].name
    return name if _COMMIT.fullmatch(name) else None


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
