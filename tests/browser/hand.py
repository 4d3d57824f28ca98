"""A hand on an explorer in a browser, live or static: moves its knobs and waits for the picture."""

import time
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from playwright.sync_api import Locator, Page

PATIENCE = 20
"""Seconds until a picture that does not come is given up: the machine may be busy."""

LOOK = """root => [
  [...root.querySelectorAll("img")].map(image => image.src).join(),
  root.querySelector("[role=status]")?.textContent,
]"""

# From the key's own time stamp until the frame with the new picture, decoded, has been painted: a
# message posted in the frame's callback arrives right after its painting.
PROBE = f"""root => {{
  const look = {LOOK};
  window.moved = new Promise(resolve => addEventListener("keydown", event => {{
    const [picture, words] = look(root), late = event.timeStamp + {1000 * PATIENCE};
    const tick = async () => {{
      const now = look(root);
      const changed = [now[0] !== picture, now[1] !== words];
      if (!changed.includes(true) && performance.now() < late) return requestAnimationFrame(tick);
      await Promise.allSettled([...root.querySelectorAll("img")].map(image => image.decode()));
      const painted = new MessageChannel();
      painted.port1.onmessage = () => resolve([performance.now() - event.timeStamp, ...changed]);
      requestAnimationFrame(() => painted.port2.postMessage(null));
    }};
    tick();
  }}, {{capture: true, once: true}}));
}}"""

# A slider of ipywidgets (noUiSlider), a native slider, a menu.
PLACE = """control =>
  control.matches("select") ? [control.selectedIndex, control.options.length - 1]
  : control.matches("input") ? [+control.value, +control.max]
  : [+control.ariaValueNow, +control.ariaValueMax]"""


@dataclass(frozen=True)
class Knob:
    """One control of an explorer: `name` for people, the element that takes the keys."""

    name: str
    control: Locator

    @property
    def position(self) -> int:
        return int(self.control.evaluate(PLACE)[0])

    @property
    def last(self) -> int:
        return int(self.control.evaluate(PLACE)[1])

    @property
    def is_menu(self) -> bool:
        return bool(self.control.evaluate("control => control.matches('select')"))


@dataclass(frozen=True)
class Hand:
    """A page and the explorer on it: `root` holds its controls, its picture and its sentence."""

    page: Page
    name: str
    root: Locator
    knobs: list[Knob]

    def look(self) -> tuple[str, str]:
        """The picture, as the addresses of its parts, and the sentence."""
        assert not self.root.get_by_role("alert").count(), self.root.inner_text()
        picture, words = self.root.evaluate(LOOK)
        return picture, words

    def press(self, knob: Knob, key: str) -> tuple[float, bool, bool]:
        """Press a key that moves the knob: milliseconds until the change, and of what."""
        before = knob.position
        knob.control.focus()
        self.root.evaluate(PROBE)
        self.page.keyboard.press(key)
        after = knob.position
        assert after != before, f"{self.name}: {key} does not move {knob.name}"
        ms, picture, words = self.page.evaluate("window.moved")
        changed = f"{self.name}: {knob.name} from {before} to {after} changes nothing"
        assert picture or words, changed
        self.look()
        return float(ms), bool(picture), bool(words)

    def put(self, knob: Knob, position: int) -> None:
        """Bring a knob to a position, by keys."""
        jump = {0: "Home", knob.last: "End"}.get(position)
        while (now := knob.position) != position:
            self.press(knob, jump or ("ArrowRight" if now < position else "ArrowLeft"))

    def drag(self, knob: Knob) -> None:
        """Drag a slider from where it is to its right end."""
        knob.control.scroll_into_view_if_needed()
        box = knob.control.bounding_box()
        # The handle of noUiSlider lies in its track; a native slider is both in one.
        track = knob.control.locator("xpath=ancestor-or-self::*[contains(@class, 'noUi-target')]")
        whole = track.bounding_box() if track.count() else box
        assert box
        assert whole
        start = box["x"] + box["width"] / 2 if track.count() else box["x"] + 8
        y, end = box["y"] + box["height"] / 2, whole["x"] + whole["width"] - 2
        self.page.mouse.move(start, y)
        self.page.mouse.down()
        self.page.mouse.move(end, y, steps=12)
        self.page.mouse.up()
        assert knob.position == knob.last, f"{self.name}: the mouse does not move {knob.name}"

    def wait_for(self, wanted: tuple[str, str]) -> float:
        """Wait until the explorer shows this; milliseconds."""
        started = time.monotonic()
        while (now := self.look()) != wanted:
            seconds = time.monotonic() - started
            assert seconds < PATIENCE, f"{self.name} stays at {now[1]!r}, not {wanted[1]!r}"
            self.page.wait_for_timeout(20)
        return 1000 * (time.monotonic() - started)

    def wait_for_words(self, wanted: str) -> None:
        """Wait until the sentence has these words in it."""
        started = time.monotonic()
        while wanted not in self.look()[1]:
            assert time.monotonic() - started < PATIENCE, f"{self.look()[1]!r} has no {wanted!r}"
            self.page.wait_for_timeout(50)


def walk(hand: Hand, knob: Knob, moves: int = 12) -> dict[str, Any]:
    """Move a knob by keyboard and mouse; what it shows must follow, and follow again.

    Parameters
    ----------
    hand : Hand
        On the explorer.
    knob : Knob
        The knob; it is put back where it was.
    moves : int, default=12
        How many single moves to time, to and fro.

    Returns
    -------
    dict
        Milliseconds from key to pixels, and from the end of a drag to its picture.
    """
    start = knob.position
    hand.put(knob, 0)
    first = hand.look()
    there_and_back = cycle(["ArrowRight"] * knob.last + ["ArrowLeft"] * knob.last)
    seen = [hand.press(knob, key) for key in islice(there_and_back, moves)]
    assert any(picture for _, picture, _ in seen), f"{knob.name} does not change the picture"
    assert any(words for _, _, words in seen), f"{knob.name} does not change the sentence"
    hand.put(knob, knob.last)
    end = hand.look()
    seen.append(hand.press(knob, "Home"))
    assert hand.look() == first, f"{knob.name} back at its start shows something else"
    drags = []
    if not knob.is_menu:
        hand.drag(knob)
        drags.append(hand.wait_for(end))
        hand.put(knob, 0)
        assert hand.look() == first
    hand.put(knob, start)
    return {"keys": [ms for ms, _, _ in seen], "after a drag": drags}
