"""Time the page of manipulate.py --html in a headless Chromium.

    python -m benchmarks.page pretrained

It writes the page, opens it from disk without a network, some times over, and prints for each
visit the time from opening to the first picture, the pictures per second while the mouse drags a
slider to and fro, and the time to refine a face. Needs playwright and the system's Chromium.
"""

import argparse
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import manipulate
from vae.errors import UserError, script

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRAG_SECONDS = 4.0
FIRST_PICTURE = """() => new Promise((done) => {
    const look = () => after.painted ? done(performance.now()) : setTimeout(look, 2);
    look();
})"""
REFINE = """async (steps) => {
    refiner ??= new NetworkWorker("refiner");
    const task = { image: after.image, noise: after.image, strength: 1 };
    await refiner.ask({ ...task, steps: 0 });
    const start = performance.now();
    await refiner.ask({ ...task, steps });
    return performance.now() - start;
}"""


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Write the page of a checkpoint, visit it, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("run", help="checkpoint file, run folder, or pretrained")
    parser.add_argument("--visits", type=int, default=5, help="how often the page is opened")
    args = parser.parse_args(argv)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UserError("playwright is missing: pip install -r requirements-dev.txt") from error
    chromium = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if chromium is None:
        raise UserError(f"no browser: looked for {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "faces.html"
        if code := manipulate.main(["--checkpoint", args.run, "--html", str(path)]):
            sys.exit(code)
        for _ in range(args.visits):
            flags = ["--no-sandbox"]
            browser = playwright.chromium.launch(executable_path=chromium, args=flags)
            tab = browser.new_context(offline=True).new_page()
            tab.goto(path.as_uri(), wait_until="commit")
            print(visit(tab))
            browser.close()


def visit(tab: Any) -> str:
    """Return the line of a visit, on a tab that is opening the page."""
    line = [f"first picture {tab.evaluate(FIRST_PICTURE) / 1000:.2f} s"]
    tab.evaluate("() => draw()")
    line.append(f"{drag(tab):.0f} pictures per second")
    if tab.evaluate("Boolean(page.refiner)"):
        seconds = [f"{tab.evaluate(REFINE, steps) / 1000:.2f} s" for steps in (2, 8)]
        line.append(f"refining with 2 steps {seconds[0]}, with 8 steps {seconds[1]}")
    return ", ".join(line)


def drag(tab: Any) -> float:
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
    sys.exit(main())
