"""Where a Chromium is: `make test` runs this to know whether it must install one."""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

# The first has no window, and less to do.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
MISSING = (
    "no Chromium found: install one (Debian: sudo apt-get install chromium-headless-shell; "
    "elsewhere: .venv/bin/playwright install chromium) or name it in the variable CHROMIUM"
)


def find_chromium() -> str:
    """Find a Chromium: in CHROMIUM, on the PATH, or Playwright's own.

    Returns
    -------
    str
        Its path.

    Raises
    ------
    FileNotFoundError
        If there is none; says in one line how to get one.
    """
    named = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, [named] if named else NAMES)), None)
    if not found and not named:
        with sync_playwright() as playwright:
            own = playwright.chromium.executable_path
        found = own if Path(own).exists() else None
    if not found:
        raise FileNotFoundError(f"CHROMIUM={named} is no program" if named else MISSING)
    return found


if __name__ == "__main__":
    try:
        print(find_chromium())
    except FileNotFoundError as error:
        sys.exit(str(error))
