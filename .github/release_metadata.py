"""Build hook: once ``pyproject.toml`` names the repository, the package's links and pictures lead there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?\[[^\]]*\]\()(?!https?://|#)([^)]+\))")


def absolute(text: str, repository: str) -> str:
    """Make the relative links and pictures of a README absolute, and add the badge of CI below its title."""
    if not repository:
        return text

    def replace(link: re.Match[str]) -> str:
        place = "raw" if link[1].startswith("!") else "blob"
        return f"{link[1]}{repository}/{place}/main/{link[2]}"

    badge = f"[![CI]({repository}/actions/workflows/ci.yml/badge.svg)]({repository}/actions)"
    title, rest = _LINK.sub(replace, text).split("\n", 1)
    return f"{title}\n\n{badge}\n{rest}"


class RepositoryMetadata(MetadataHookInterface):
    """Sets README and links of the package."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add ``readme`` and ``urls``."""
        repository = str(self.config.get("repository", "")).rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, repository)}
        metadata["urls"] = {"Paper": "https://arxiv.org/abs/2402.17133"}
        if repository:
            metadata["urls"] |= {
                "Repository": repository,
                "Changelog": f"{repository}/blob/main/CHANGELOG.md",
            }
