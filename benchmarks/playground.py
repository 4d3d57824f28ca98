"""How fast is the playground?  ``python -m benchmarks.playground`` measures it in a Chromium."""

import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from rvlib.report.playground import playground
from tests.browser.chromium import find_chromium

STATE = "network=gaussian-0.25&mode=vote&n=1000"

ATTACK = """() => {
  const network = makeNetwork(readHalves(data.weights.standard)), { x, label } = chosen();
  const options = { attack: "pgd-linf", eps: 8 / 255, steps: 10 };
  const times = Array.from({ length: 60 }, (_, seed) => {
    const started = performance.now();
    attackOnce(network, x, label, options, makeUniform(seed, 0));
    return performance.now() - started;
  }).slice(10); // without the compiler's warm-up
  return times.sort((a, b) => a - b)[25];
}"""

# As a reader sees it: from the click until the last vote is on the screen, counting frames.
VOTES = """() => new Promise((resolve) => {
  const started = performance.now(), frames = [started];
  document.getElementById("again").click();
  requestAnimationFrame(function next(now) {
    frames.push(now);
    if (document.querySelector(".side").ariaBusy === "true") return requestAnimationFrame(next);
    const seconds = (performance.now() - started) / 1000;
    const gaps = frames.slice(1).map((now, i) => now - frames[i]);
    resolve([seconds, frames.length / seconds, Math.max(...gaps)]);
  });
})"""


def measure() -> dict[str, Any]:
    """Time PGD-10 on one image and 1,000 votes, in the page as it is written."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "playground.html"
        file.write_text(playground(), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(f"{file.as_uri()}#{STATE}")
        page.wait_for_function("document.querySelector('.side').ariaBusy === 'false'")
        attack, votes = page.evaluate(ATTACK), [page.evaluate(VOTES) for _ in range(5)]
        browser.close()
    seconds, rate, gap = sorted(votes)[len(votes) // 2]
    return {"attack": attack, "votes": seconds, "frames": rate, "gap": gap}


if __name__ == "__main__":
    found = measure()
    print(f"PGD-10, one image: {found['attack']:.0f} ms (median of 50; goal: 30)")
    print(f"1,000 votes: {found['votes']:.2f} s (median of 5; goal: 1)")
    print(f"meanwhile {found['frames']:.0f} frames a second, {found['gap']:.0f} ms at the longest")
