"""Where things are when nobody says: the workspace's folders."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path


def root() -> Path:
    """The workspace, as ``./run`` names it; else the current folder."""
    return Path(os.environ.get("FOSP_WORKSPACE") or ".").absolute()


def models() -> Path:
    """Folder of the model bundles."""
    return root() / "models"


def runs() -> Path:
    """Folder that every run gets a folder in."""
    return root() / "runs"


def new_run(folder: Path) -> Path:
    """Create ``<folder>/<time>`` and let ``<folder>/latest`` point at it; raises ``OSError``."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while True:
        run = folder / (stem if number == 1 else f"{stem}-{number}")
        try:
            run.mkdir()
            break
        except FileExistsError:
            number += 1
    link = folder / f".latest-{run.name}"
    link.symlink_to(run.name)
    os.replace(link, folder / "latest")
    return run
