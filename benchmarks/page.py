"""Time the page of manipulate.py --html in a headless Chromium: python -m benchmarks.page RUN.

Needs playwright (requirements-dev.txt) and the system's Chromium. It opens the page from disk
without a network, five times, and prints for each: the time from opening to the first picture;
pictures per second while the mouse drags a slider to and fro; seconds to refine a face.
"""

import math
import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

import manipulate

VISITS, DRAG_SECONDS = 5, 4.0
FIRST_PICTURE = """() => new Promise((done) => {
    const look = () => after.painted ? done(performance.now()) : setTimeout(look, 2);
    look();
})"""
REFINE = """async (steps) => {
    refiner ??= new Artist("refiner");
    await refiner.ask({ image: after.image, noise: after.image, steps: 0, strength: 1 });
    const start = performance.now();
    await refiner.ask({ image: after.image, noise: after.image, steps, strength: 1 });
    return performance.now() - start;
}"""


def main(checkpoint: str) -> None:
    """Write the page of a checkpoint, open it, and print what was measured."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "faces.html"
        manipulate.main(["--checkpoint", checkpoint, "--html", str(path)])
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        for _ in range(VISITS):
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            tab = browser.new_context(offline=True).new_page()
            tab.goto(path.as_uri(), wait_until="commit")
            line = [f"first picture {tab.evaluate(FIRST_PICTURE) / 1000:.2f} s"]
            tab.evaluate("() => draw()")
            line.append(f"{drag(tab):.0f} pictures per second")
            if tab.evaluate("Boolean(page.refiner)"):
                seconds = [tab.evaluate(REFINE, steps) / 1000 for steps in (4, 8)]
                line.append("refining with 4 and 8 steps {:.2f} and {:.2f} s".format(*seconds))
            print(", ".join(line))
            browser.close()


def drag(tab: Page) -> float:
    """Return the pictures per second while the first slider is dragged."""
    box = tab.locator("#first input").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.mouse.down()
    start, before = time.perf_counter(), tab.evaluate("after.painted")
    while (seconds := time.perf_counter() - start) < DRAG_SECONDS:
        tab.mouse.move(x + 0.4 * box["width"] * math.sin(3 * seconds), y)
    drawn = tab.evaluate("after.painted") - before
    tab.mouse.up()
    return drawn / seconds


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "pretrained")
