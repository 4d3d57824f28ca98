"""An explorer in a browser, live or exported: both have the same sliders, picture and sentence."""

import re
import time
from dataclasses import dataclass

from playwright.sync_api import Locator, Page

PATIENCE = 20
"""Seconds until a picture counts as never coming: the machine may be busy."""

# Pictures are told apart by a number: their addresses hold all their bytes, too much to hand over.
LOOK = """root => {
  const number = text => {
    let sum = 0;
    for (let i = 0; i < text.length; i++) sum = (31 * sum + text.charCodeAt(i)) | 0;
    return sum;
  };
  return [
    number(root.querySelector("img").src),
    number([...root.querySelectorAll(".picture > div")].map(e => e.style.background).join()),
    root.querySelector("[role=status]").textContent,
  ];
}"""

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

    def look(self) -> tuple[int, int, str]:
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

    def wait(self, wanted) -> tuple[int, int, str]:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if wanted(now := self.look()):
                return now
            self.page.wait_for_timeout(20)
        raise AssertionError(f"{self.name} stays at {now[2]!r}")

    def sentence_with(self, words: str) -> None:
        self.wait(lambda now: words in now[2])

    def walk(self, control: Locator) -> None:
        """Move a control to its ends, by a step and back: what is shown follows, and speaks."""
        (start, last), first = self.position(control), self.look()
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
        self.press(control, "ArrowLeft" if self.position(control)[0] else "ArrowRight")
        self.root.get_by_role("button", name="Reset").click()
        self.wait(lambda now: now[2] == first[2])
        assert self.position(control)[0] == start


def explorers(page: Page) -> list[Explorer]:
    """Find the explorers of a page."""
    return [
        Explorer(page, re.findall(r"explorer-(\w+)", root.get_attribute("class") or "")[0], root)
        for root in page.locator("figure.explorer").all()
    ]
