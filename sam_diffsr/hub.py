"""Download from and upload to the Hugging Face Hub; the only importer of huggingface_hub.

The client reads HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and similar variables when it is imported.
Therefore it is imported inside the functions, and none of these variables is set here.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict, cast

from sam_diffsr.errors import ModelLoadError, OutputError

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LIBRARY = "sam_diffsr"


@dataclass(frozen=True, kw_only=True, slots=True)
class HubOptions:
    """How files are fetched from the Hub; the names are those of ``huggingface_hub``."""

    revision: str | None = None
    """Branch, tag or commit; None is ``main``."""
    subfolder: str | None = None
    """Folder inside the repository."""
    cache_dir: str | os.PathLike[str] | None = None
    """Download cache; None is the client's own."""
    token: str | bool | None = field(default=None, repr=False)
    """Access token; None uses the one that is logged in, False uses none."""
    force_download: bool = False
    """Download files again that are in the cache."""
    local_files_only: bool = False
    """Use the cache only, never the network."""


class HubKeywords(TypedDict, total=False):
    """The fields of ``HubOptions`` as keywords of a function."""

    revision: str | None
    subfolder: str | None
    cache_dir: str | os.PathLike[str] | None
    token: str | bool | None
    force_download: bool
    local_files_only: bool


def download_model(
    repo_id: str, filenames: tuple[str, ...], *, options: HubOptions | None = None
) -> tuple[Path, ...]:
    """Fetch files of one model repository, all from one commit, through the client's cache.

    ``filenames`` lie below the ``subfolder`` of the options. Returns local paths in their order; every
    failure is a ``ModelLoadError`` that says what to do.
    """
    import huggingface_hub

    from sam_diffsr import __version__

    logger.info("looking for %s on the Hub", repo_id)
    fetch, options = cast("Any", huggingface_hub).hf_hub_download, options or HubOptions()
    keywords = asdict(options) | {"library_name": _LIBRARY, "library_version": __version__}
    paths: list[Path] = []
    for filename in filenames:
        try:
            with _quiet_client():
                path = fetch(repo_id, filename, **keywords)
        except Exception as error:  # the client and its HTTP library have many types; callers see one
            raise ModelLoadError(_explain(error, repo_id, filename, filenames, options)) from error
        paths.append(Path(path))
        # The files that follow come from the commit of the first one, even if the branch moves meanwhile. It
        # is in the path of a cached file: .../snapshots/<commit>/<subfolder>/<file>.
        name = paths[-1].parents[len(Path(options.subfolder or ".").parts)].name
        if _COMMIT.fullmatch(name):
            keywords["revision"] = name
    return tuple(paths)


def refuse_misspelt_path(name: str) -> None:
    """Raise ``ModelLoadError`` for a Hub id whose first part is a local folder: probably a misspelt path.

    Otherwise the Hub would give whatever a stranger has called so.
    """
    folder = Path(name).parent
    if folder.name and folder.is_dir():
        raise ModelLoadError(
            f"there is no {name!r}, but a folder {str(folder)!r}; correct the path, or load a Hub model "
            "of this name from another working directory"
        )


@contextmanager
def _quiet_client() -> Generator[None]:
    """Keep back the client's lines about its retries; an error says what they come to."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


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
    """Upload a folder as one commit; :meth:`SuperResolver.push_to_hub` describes the arguments.

    Returns the address of the commit or of the pull request. Raises ``OutputError`` if the Hub refuses or
    cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import constants

    from sam_diffsr import __version__

    endpoint = constants.ENDPOINT
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
    except Exception as error:  # see download_model
        raise OutputError(
            f"cannot push to {repo_id} at {endpoint}: {_first_line(error)}; check the name, the network "
            "and that your token (of `hf auth login` or passed) may write there"
        ) from error
    return commit.pr_url or commit.commit_url


def _explain(
    error: Exception, repo_id: str, filename: str, filenames: tuple[str, ...], options: HubOptions
) -> str:
    """Explain what went wrong and what to do, from the most specific error class to the least."""
    from huggingface_hub import constants, utils

    endpoint, revision = constants.ENDPOINT, options.revision
    where = f"{repo_id!r} at {endpoint}"
    login = "`hf auth login` or pass a token"
    if isinstance(error, utils.HFValidationError):
        return f"{repo_id!r} is no local file or folder, no bundled model and no valid Hub id: {error}"
    if isinstance(error, utils.GatedRepoError):
        licence = f"{endpoint}/{repo_id}"
        return f"the model {where} is gated: accept its licence at {licence}, then log in with {login}"
    if isinstance(error, utils.RepositoryNotFoundError):
        return (
            f"there is no local file or folder {repo_id!r} and no public model {where}: check the spelling; "
            f"for a private model log in with {login}"
        )
    if isinstance(error, utils.RevisionNotFoundError):
        return f"the model {where} has no revision {revision!r}: pass a branch, a tag or a full commit hash"
    switch = "HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "local_files_only"
    forbidden = constants.HF_HUB_OFFLINE or options.local_files_only
    if forbidden or isinstance(error, utils.LocalEntryNotFoundError | utils.OfflineModeIsEnabled):
        state = "cannot be downloaded again" if options.force_download else "is not in the local cache"
        cause = f"{endpoint} cannot be reached: check the network and HF_ENDPOINT"
        if forbidden:
            cause = f"{switch} is set: unset it to download, or load a local folder"
        return f"{filename} of {repo_id!r} (revision {revision or 'main'}) {state}, and {cause}"
    if isinstance(error, utils.EntryNotFoundError):
        files = " and ".join(filenames)
        return f"the model {where} has no file {filename}: expected {files} in it or in the chosen subfolder"
    return (
        f"the download of {filename} from {where} failed ({_first_line(error)}); "
        "the unfinished file is not used: try again"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
