"""Prints the system's Chromium; exits with 1 where there is none."""

from __future__ import annotations

import shutil
import sys


def find() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


if __name__ == "__main__":
    found = find()
    print(found or "no Chromium on this machine")
    sys.exit(found is None)
