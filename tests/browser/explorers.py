"""An explorer in a browser, live or exported: both have the same sliders, picture and sentence."""

import re
import time
from dataclasses import dataclass

from playwright.sync_api import Locator, Page

PATIENCE = 20
"""Seconds until a picture counts as never coming: the machine may be busy."""

LOOK = """root => [
  root.querySelector("img").src,
  [...root.querySelectorAll(".picture > div")].map(overlay => overlay.style.background).join(),
  root.querySelector("[role=status]").textContent,
]"""

AT = "control => [control.value, control.matches('select') ? control.length - 1 : control.max]"


@dataclass(frozen=True)
class Explorer:
    """A figure on a page: `root` holds its controls, its picture and its sentence."""

    page: Page
    name: str
    root: Locator

    @property
    def controls(self) -> list[Locator]:
        return list(self.root.locator("input, select").all())

    def look(self) -> tuple[str, str, str]:
        """Picture, overlay and sentence."""
        picture, overlay, sentence = self.root.evaluate(LOOK)
        return picture, overlay, sentence

    def position(self, control: Locator) -> tuple[int, int]:
        at, last = control.evaluate(AT)
        return int(at), int(last)

    def press(self, control: Locator, key: str) -> None:
        """Press a key that moves a control, and wait until the picture or sentence has changed."""
        before, at = self.look(), self.position(control)
        control.press(key)
        assert self.position(control) != at, f"{self.name}: {key} moves nothing"
        self.wait(lambda now: now != before and "Waiting" not in now[2])

    def wait(self, wanted) -> tuple[str, str, str]:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if wanted(now := self.look()):
                return now
            self.page.wait_for_timeout(20)
        raise AssertionError(f"{self.name} stays at {now[2]!r}")

    def sentence_with(self, words: str) -> None:
        self.wait(lambda now: words in now[2])

    def walk(self, control: Locator) -> None:
        """Move a control to its ends and back: what is shown follows, and speaks."""
        start, last = self.position(control)
        if not last:  # a single value was exported: a text, no slider
            assert not control.is_visible()
            return
        seen = set()
        for key in ("Home", "End") if start else ("End", "Home"):
            self.press(control, key)
            seen.add(self.look()[2])
        assert len(seen) == 2, f"{self.name}: the sentence is the same at both ends"
        if control.evaluate("control => control.matches('input')"):
            shown = control.locator("xpath=following-sibling::span").inner_text()
            assert control.get_attribute("aria-valuetext") == shown
        now, _ = self.position(control)
        for _ in range(abs(now - start)):
            self.press(control, "ArrowRight" if now < start else "ArrowLeft")


def explorers(page: Page) -> list[Explorer]:
    """Find the explorers of a page."""
    return [
        Explorer(page, re.findall(r"explorer-(\w+)", root.get_attribute("class") or "")[0], root)
        for root in page.locator("figure.explorer").all()
    ]
