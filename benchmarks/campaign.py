"""Try to make the scripts lose work: kills, full disks, damaged files, wrong flags.

    python -m benchmarks.campaign --minutes 90              # goes on where the last call stopped
    python -m benchmarks.campaign --only signal:17          # one trial again, with what it prints

A trial puts made-up faces, and mostly a small trained run, into an empty folder, does one thing to
them, and runs scripts there, in processes of their own. One rule judges: the right result, or one
line and exit code 1, 2, 130 or 143. A traceback, a lost or damaged earlier file, a bit that differs
from the undisturbed run, a temporary file that stays, too much memory or time are faults.
Needs Linux; the full disks need the right to mount.
"""

import argparse
import contextlib
import csv
import functools
import importlib
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import config
from vae.data.faces import load_config_faces
from vae.errors import RunStopped, UserError, script
from vae.flags import as_flag, read_flags

ROOT = Path(__file__).parent.parent
MEMORY = 2 * 2**30  # bytes of address space that a script may take beyond its imports
PATIENCE, LONG = 30, 8  # seconds until a script hangs, and until long work gets a Ctrl-C
TIMES = {"seconds", "images_per_second"}  # what differs between two runs of equal results
STOPS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SMALL = "--data faces --image-size 32 --batch-size 16 --device cpu"
TRAIN = f"train {SMALL} --channels 4 6 --latent-dim 5 --epochs 2 --recipe sharp"
TRAIN += " --refiner-channels 8 8 --refiner-epochs 1"
RESUME = "train --resume run --refiner-epochs 2"
JUDGE = f"train_judge {SMALL} --epochs 1 --run-dir judges"
GRID = "generate --checkpoint run --count 4 --columns 2"
SWEEP = "manipulate --checkpoint run --faces 0"
EDIT, MEASURE = f"{SWEEP} --to 0.9 --judges judges", "evaluate --checkpoint run"


@script
def load(argv: Sequence[str] | None = None) -> None:
    """Load the faces as train.py does, without training."""
    print(*load_config_faces(read_flags(config.TrainConfig, argv, None)).description, sep="\n")


NAMES = ("train", "train_judge", "generate", "manipulate", "evaluate")
SCRIPTS = {name: importlib.import_module(name).main for name in NAMES} | {"load": load}
LOAD = f"load {SMALL}"


@dataclass
class Trial:
    """One trial: its random numbers and its folder, and what was found."""

    kind: str
    number: int
    rng: np.random.Generator
    bench: "Bench"
    place: Path
    faults: list[str] = field(default_factory=list)
    kills: int = 0
    bits: int = 0

    def fault(self, what: str, seen: object) -> None:
        """Note a fault: its sort in one word, and what was seen."""
        self.faults.append(f"{what}: {str(seen)[:400]}")

    def pick(self, values: Sequence[Any]) -> Any:
        """Return one of values, at random."""
        return values[int(self.rng.integers(len(values)))]

    def run(self, argv: str | list[str], stop=(0.0, 0), codes=(0, 1, 2), **how: Any) -> int | None:
        """Run a script in a process, judge its end, and return its exit code; None if it hung.

        stop is a moment in seconds, and a signal to send then; codes are the right ones without it.
        """
        argv = argv.split() if isinstance(argv, str) else argv
        command, (moment, number) = " ".join(argv)[:300], stop
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=self._do, args=(argv,), kwargs=how)
        for path in self.bench.outputs:  # the process may be killed before it opens them
            path.write_bytes(b"")
        process.start()
        process.join(moment)
        if number and process.is_alive():
            os.kill(process.pid, number)
            self.kills += 1
        process.join(PATIENCE)
        hung = process.is_alive()
        process.kill()
        process.join()
        code = None if hung else process.exitcode
        out, err = (path.read_text(errors="replace") for path in self.bench.outputs)
        if self.bench.verbose:
            print(f"$ {command} -> {code}\n{out}{err}")
        lines = err.splitlines()
        seen = f"exit {code}, {' / '.join(lines[-2:])[:250]} of {command}"
        if hung:
            self.fault("hang", command)
        elif "Traceback" in err or (code < 0 and code != -number):
            self.fault("traceback", seen)
        elif code not in codes and (not number or code not in (-number, 128 + number)):
            self.fault("code", seen)
        elif len(lines) != (code > 0):
            self.fault("lines", seen)
        if (
            not hung
            and code >= 0
            and (left := [path.name for path in self.place.rglob("*partial*")])
        ):
            self.fault("left", f"{left} after {command}")
        return code

    def _do(self, argv: list[str], hook: Callable = int, execute: bool = False) -> None:
        """Be the script, in a copy of this process, or, to execute it, in a new interpreter."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the campaign's own is not the script's
        os.chdir(self.place)
        for number, path in enumerate(self.bench.outputs, start=1):
            os.dup2(os.open(path, os.O_RDWR), number)
        resource.setrlimit(resource.RLIMIT_AS, (self.bench.memory,) * 2)
        hook()
        if execute:
            os.execv(sys.executable, [sys.executable, ROOT / f"{argv[0]}.py", *argv[1:]])
        with contextlib.suppress(KeyboardInterrupt):  # in these lines, not in the script
            sys.exit(SCRIPTS[argv[0]](argv[1:]))

    def compare(self, expected: dict[Any, bytes], found: dict[Any, bytes]) -> None:
        """Note what is missing or too much, and the bits that differ."""
        if other := sorted(map(str, expected.keys() ^ found.keys())):
            self.fault("lost", f"missing or too much: {', '.join(other)}")
        for name in expected.keys() & found.keys():
            if expected[name] != found[name]:
                one, other = expected[name], found[name]
                bits = 8 * max(len(one), len(other))  # all, where the lengths differ
                if len(one) == len(other):
                    bits = (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()
                self.bits += bits
                self.fault("bits", f"{bits} differ in {name}")

    def require_progress(self, before: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return how far the run is; note a fault if a checkpoint is not whole or work is lost."""
        reached: tuple[int, ...] = ()
        for path in (self.place / "run").glob("[!.]*.pt"):
            try:
                stored = torch.load(path, weights_only=True)
            except (RuntimeError, ValueError, EOFError, OSError) as error:
                self.fault("lost", f"{path.name} is not whole: {error}")
                continue
            if path.name == "last.pt":
                phase = stored["refiner"] or stored
                reached = (phase is not stored, phase["epoch"], stored["training"]["steps"])
        if reached < before:
            self.fault("lost", f"last.pt was at {before}, is at {reached}")
        return reached


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield the leaves of a checkpoint as bytes, with their names; TIMES are left out."""
    if isinstance(value, dict | list | tuple):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in TIMES:
                yield from flatten(one, f"{name}/{key}")
    elif isinstance(value, Tensor):
        yield f"{name} {value.dtype} {[*value.shape]}", value.contiguous().numpy().tobytes()
    else:
        yield name, repr(value).encode()


def contents(folder: Path) -> dict[str, bytes]:
    """Return what a folder holds, by name: checkpoints and tables in parts, other files whole."""
    parts: dict[str, bytes] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.suffix in (".pt", ".csv"):
            rows = csv.DictReader(path.read_text("utf-8", "replace").splitlines())
            stored = list(rows) if path.suffix == ".csv" else torch.load(path, weights_only=True)
            parts |= {name + key: part for key, part in flatten(stored)}
        elif path.is_file():
            parts[name] = path.read_bytes()
    return parts


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the plain files in a folder; of the huge ones none."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    small = (path for path in paths if path.stat().st_size < 2**26)
    return {str(path.relative_to(folder)): path.read_bytes() for path in small}


def train_or_resume(trial: Trial) -> str:
    """Return the command that a user gives next."""
    begun = (trial.place / "run/last.pt").exists()
    return "train --resume run" if begun else f"{TRAIN} --run-dir run"


def finish_and_compare(trial: Trial) -> None:
    """Finish the training; its folder must be that of the undisturbed one."""
    if trial.run(train_or_resume(trial), codes=(0,)) == 0:
        trial.compare(trial.bench.trained, contents(trial.place / "run"))


def stopped(trial: Trial) -> None:
    """Signals at random moments of a training and of its resumptions."""
    execute, reached = trial.number % 8 == 0, ()
    for _ in range(trial.rng.integers(1, 4)):
        moment = trial.rng.uniform(0, trial.bench.seconds + 3 * execute)
        trial.run(train_or_resume(trial), (moment, int(trial.pick(STOPS))), (0,), execute=execute)
        reached = trial.require_progress(reached)
    finish_and_compare(trial)


def at_operation(trial: Trial) -> None:
    """A kill before, within or after an operation on a file in a training."""
    hook = functools.partial(count_operations, trial.number)
    trial.run(f"{TRAIN} --run-dir run", (PATIENCE, signal.SIGKILL), (), hook=hook)
    trial.kills += 1
    trial.require_progress()
    finish_and_compare(trial)


def count_operations(kill_at: int = -1, log: Path | None = None) -> None:
    """Kill this process at a moment around operations on files; log gets a byte for each moment."""
    counter = itertools.count()

    def moment() -> None:
        if next(counter) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if log:
            with open(log, "ab") as file:
                file.write(b".")

    def counted(function: Callable) -> Callable:
        def wrapped(*args: Any, **options: Any) -> Any:
            moment()
            found = function(*args, **options)
            moment()
            return found

        return wrapped

    def write_in_halves(path: Path, content: bytes) -> None:
        with open(path, "wb") as file:
            for part in (content[: len(content) // 2], content[len(content) // 2 :]):
                moment()
                file.write(part)
                file.flush()
        moment()

    Path.write_bytes = write_in_halves
    for name in ("fsync", "replace", "unlink", "mkdir", "link", "open", "posix_fallocate"):
        setattr(os, name, counted(getattr(os, name)))


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    """Put what is in place on a disk with size free bytes."""
    aside = place.rename(place.with_name("aside"))
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        shutil.copytree(aside, place, dirs_exist_ok=True)
        resize_disk(place, size)
        yield
    finally:
        subprocess.run(["umount", place], check=True)
        shutil.rmtree(aside)


def resize_disk(place: Path, size: int) -> None:
    """Change the number of free bytes of a small disk."""
    option = f"remount,size={shutil.disk_usage(place).used + size}"
    subprocess.run(["mount", "-o", option, place], check=True)


def full_disk(trial: Trial) -> None:
    """A training on a disk that gets full; then its resumption on a larger one."""
    fraction = trial.number / KINDS[trial.kind][1]
    with small_disk(trial.place, 4096 + round(fraction * trial.bench.bytes_trained)):
        trial.run(f"{TRAIN} --run-dir run")
        trial.require_progress()
        resize_disk(trial.place, 2**30)
        finish_and_compare(trial)


DRAW = [GRID, f"{GRID} --refine --output out/grid.jpg", f"{GRID} --output out/a.webp --files out"]
DRAW += [f"{GRID} --show traversal --output out/b.jpg", f"{SWEEP} --gif --output out/c.png"]
DRAW += [MEASURE]


def drawing(trial: Trial) -> None:
    """Pictures and numbers over earlier ones, on a disk that gets full or until a signal."""
    argv = DRAW[trial.number % len(DRAW)]
    made, seconds = undisturbed(trial, argv)
    for name in made:
        (trial.place / name).write_bytes(b"earlier")
    if trial.kind == "signal-drawing":
        code = trial.run(argv, (trial.rng.uniform(0, seconds), int(trial.pick(STOPS))), (0,))
        after = snapshot(trial.place)
    else:
        with small_disk(trial.place, 4096 * (1 + trial.number // 2)):
            code, after = trial.run(argv), snapshot(trial.place)
    for name, content in made.items():
        if after.get(name) != content and (code == 0 or after.get(name) != b"earlier"):
            trial.fault("lost", f"{name} after exit {code} of {argv}")


def undisturbed(trial: Trial, argv: str) -> tuple[dict[str, bytes], float]:
    """Return the files that a command makes or changes in an undisturbed place, and its seconds."""
    if argv not in trial.bench.undisturbed:
        before, start = snapshot(trial.place), time.perf_counter()
        trial.run(argv, codes=(0,))
        seconds, after = time.perf_counter() - start, snapshot(trial.place)
        made = {name: after[name] for name in after if before.get(name) != after[name]}
        trial.bench.undisturbed[argv] = made, seconds
        trial.bench.reset(trial.kind)
    return trial.bench.undisturbed[argv]


CHECKPOINTS = [("run/best.pt", GRID), ("run/best.pt", DRAW[1]), ("run/last.pt", RESUME)]
CHECKPOINTS += [("run/last.pt", "train --resume run"), ("judges/guide.pt", EDIT)]
PICTURES = [f"own/{name}" for name in ("a.jpg", "b.png", "c.webp", "d.gif", "e.bmp", "f.tiff")]
PICTURES += [f"own/{name}" for name in ("g.ppm", "h.tga", "i.jp2", "j.jpg", "k.png", "l.png")]
TABLES = [f"faces/{name}.txt" for name in ("list_attr_celeba", "list_eval_partition")]
SHORT = f"{TRAIN} --epochs 1 --refiner-epochs 0"
ZIPPED, OWN = f"{LOAD} --data faces.zip", f"{LOAD} --data own"
DAMAGED = {
    "checkpoint": CHECKPOINTS,
    "cache": [("data/cache/*.npy", LOAD), ("data/cache/*.json", LOAD), ("data/cache/*", RESUME)],
    "table": [(TABLES[0], LOAD), (TABLES[0], SHORT), (TABLES[1], LOAD), ("own/*.csv", OWN)],
    "archive": [("faces.zip", ZIPPED), ("faces.zip", f"{ZIPPED} --skip-bad-images")],
    "picture": [
        *((name, f"{GRID} --show reconstructions --image {name}") for name in PICTURES),
        *((name, f"{OWN} --skip-bad-images") for name in PICTURES),
    ],
}
WORDS = [b"", b"nan", b"1e999", b"9" * 5000, b"\0", b"\xff\xfe", b'"', b",", b"\n", b"\r", b"2"]
WORDS += [b"-1", b" 1", "\u0663".encode(), b"x" * 200_000, b"../../x.jpg", b"1\n1\n", b"null"]


def damaged(trial: Trial, content: bytes) -> bytes:
    """Return content with bits turned, or a part cut off, left out, zero, random, doubled, other"""
    rng, size = trial.rng, len(content)
    starts = (rng.integers(size), max(0, size - 1 - rng.integers(2000)), rng.integers(size) // 99)
    start = int(trial.pick(starts))  # directories and headers stand at the ends
    way = int(rng.integers(8))
    end = min(size, start + int(2 ** rng.uniform(0, 2 if way == 7 else 12)))
    if way < 2:
        flipped = bytearray(content)
        for place in (start, *rng.integers(size, size=3 * way)):
            flipped[place] ^= 1 << int(rng.integers(8))
        return bytes(flipped)
    parts = (b"", b"", bytes(end - start), rng.bytes(end - start), content[start:end] * 2)
    part = trial.pick(WORDS) if way == 7 else parts[way - 2]
    return content[:start] + part + (b"" if way == 2 else content[end:])


def damaged_file(trial: Trial) -> None:
    """A file with damaged bytes."""
    entries = DAMAGED[trial.kind]
    name, argv = entries[trial.number % len(entries)]
    path = trial.pick(sorted(trial.place.glob(name)))
    exact = trial.kind in ("checkpoint", "cache")  # what is read from them is right, or refused
    right = undisturbed(trial, argv)[0] | snapshot(trial.place / "data/cache") if exact else {}
    path.write_bytes(damaged(trial, path.read_bytes()))
    after = use_malformed(trial, argv)
    for name, content in right.items():
        if after and Path(name).suffix in (".png", ".jpg", ".npy"):
            # what follows the end of an array does no harm
            trial.compare({name: content}, {name: after.get(name, b"")[: len(content)]})


def use_malformed(trial: Trial, argv: str) -> dict[str, bytes]:
    """Run a command on malformed input, which may lose nothing; return all files if it succeeds."""
    before, code = snapshot(trial.place), trial.run(argv)
    after = snapshot(trial.place)
    lost = [name for name in before if after.get(name) != before[name] and "cache/" not in name]
    if code == 2 and lost:  # a cache is made again
        trial.fault("lost", f"exit 2 changed {lost} in {argv}")
    return after | snapshot(trial.place / "data/cache") if code == 0 else {}


WRONG: list[Any] = [None, True, 0, -1, 1, 7, 2_000_000, 2**70, 0.5, -1e30, float("nan")]
WRONG += [float("inf"), "", "x", "skip", "x" * 10_000, [], [0, 0, 0], ["a"], {}, {"a": 1}]
WRONG += [torch.zeros(()), torch.zeros(0), torch.zeros(3, 2), torch.full((5,), torch.nan)]
WRONG += [torch.zeros(5, dtype=torch.int64), torch.zeros(1).expand(2**40)]


def wrong_contents(trial: Trial) -> None:
    """A whole checkpoint with one part that is wrong or missing."""
    name, argv = CHECKPOINTS[trial.number % len(CHECKPOINTS)]
    stored = torch.load(trial.place / name, weights_only=True)
    holder, key = stored, trial.pick(list(stored))
    while isinstance(holder[key], dict | list) and holder[key] and trial.rng.random() < 0.85:
        holder = holder[key]
        key = trial.pick(list(holder) if isinstance(holder, dict) else range(len(holder)))
    wrong, old = trial.pick(WRONG), holder[key]
    if isinstance(old, Tensor) and trial.rng.random() < 0.5:
        nan = torch.full_like(old, torch.nan) if old.is_floating_point() else old
        wrong = trial.pick([nan, old[..., None], old.double(), old.flatten()[1:], -old.abs()])
    holder[key] = wrong
    if trial.rng.random() < 0.1:
        del holder[key]
    if trial.bench.verbose:
        print(f"in {name}, {key} becomes {str(wrong)[:200]}")
    torch.save(stored, trial.place / name)
    use_malformed(trial, argv)


NUMBERS = "-1 0 1 2 3 5 32 33 100 8192 65536 1000000000 1e3 0.5 1e-320 1e38 1e39 1e400 nan inf x"
TEXTS = "nowhere out/new faces own/a.jpg own faces.zip run judges cpu cuda:99 a.png b.jpg smilin x"
TEXTS += " faces/x.png own/a.jpg/x.webp /proc/nowhere/x.json /dev/full out/e.json run/last.pt . y"
NUMBERS = [*NUMBERS.split(), "-inf", "\u0663", "1_0", "0x10", "", " 4 ", "9" * 20, "9" * 5000]
TEXTS = [*TEXTS.split(), "", "x" * 300, "x/" * 3000, "a\nb", "\udcff.png", "\udcff", "\u263a.png"]
CLASSES = {TRAIN: config.TrainConfig, JUDGE: config.JudgeConfig, GRID: config.GenerateConfig}
CLASSES |= {SWEEP: config.ManipulateConfig, MEASURE: config.EvaluateConfig}


def random_flags(trial: Trial) -> None:
    """Flags with values from the edges of their types; what takes long is interrupted."""
    base = trial.pick(list(CLASSES))
    argv, hints = base.split(), typing.get_type_hints(CLASSES[base])
    for entry in trial.rng.permutation(fields(CLASSES[base]))[: trial.rng.integers(1, 4)]:
        flag, hint = as_flag(entry.name), str(hints[entry.name])
        if entry.name == "download":
            continue
        values = [*entry.metadata.get("choices", TEXTS), "x"] if "str" in hint else NUMBERS
        if "bool" in hint:
            argv.append(trial.pick([flag, f"--no-{flag[2:]}"]))
        else:
            count = trial.rng.integers(4) if "tuple" in hint else 1
            argv += [flag, *(trial.pick(values) for _ in range(count))]
    before = snapshot(trial.place)
    code, after = trial.run(argv, (LONG, signal.SIGINT)), snapshot(trial.place)
    kept = [one for one in after if code == 2 and "cache/" not in one]  # of a refused run
    if lost := [*(before.keys() - after), *(one for one in kept if before.get(one) != after[one])]:
        trial.fault("lost", f"{lost} after exit {code} of {argv}")


KINDS: dict[str, tuple[Callable[[Trial], None], int]] = {
    "signal": (stopped, 80),
    "operation": (at_operation, 0),
    "full-disk": (full_disk, 60),
    "signal-drawing": (drawing, 100),
    "full-disk-drawing": (drawing, 100),
    "checkpoint": (damaged_file, 1000),
    "cache": (damaged_file, 500),
    "table": (damaged_file, 700),
    "archive": (damaged_file, 500),
    "picture": (damaged_file, 1200),
    "contents": (wrong_contents, 1200),
    "flags": (random_flags, 500),
}
"""for each kind of fault, its function and the number of trials; 0: one for each moment"""
UNTRAINED = ("signal", "operation", "full-disk")  # these start without a trained run


class Bench:
    """The folder of a campaign, with the homes of the trials, and what undisturbed scripts give."""

    def __init__(self, folder: Path, verbose: bool) -> None:
        self.folder, self.verbose = folder.absolute(), verbose
        self.outputs = [self.folder / name for name in ("out.txt", "err.txt")]
        self.undisturbed: dict[str, tuple[dict[str, bytes], float]] = {}
        status = Path("/proc/self/status").read_text().split("VmSize:")[1]
        self.memory = 1024 * int(status.split()[0]) + MEMORY
        torch.set_num_threads(1)
        place, log = self.folder / "place", self.folder / "operations"
        for name in ("place", "aside", "trained", "untrained"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        write_faces(self.folder / "untrained")
        log.write_bytes(b"")
        trial = Trial("signal", 0, np.random.default_rng(0), self, place)
        self.reset("signal")
        start, hook = time.perf_counter(), functools.partial(count_operations, log=log)
        trial.run(f"{TRAIN} --run-dir run", codes=(0,), hook=hook)
        self.seconds = time.perf_counter() - start
        self.operations, self.trained = log.stat().st_size, contents(place / "run")
        made = [*place.glob("run/*"), *place.glob("data/cache/*")]
        self.bytes_trained = sum(path.stat().st_size + 4096 for path in made)
        trial.run(JUDGE, codes=(0,))
        if trial.faults:
            raise UserError(f"the undisturbed scripts fail: {trial.faults[0]}")
        shutil.copytree(place, self.folder / "trained", ignore=shutil.ignore_patterns("*epoch*"))

    def reset(self, kind: str) -> None:
        """Make the place of the trials as it is before a trial of this kind."""
        home, place = "untrained" if kind in UNTRAINED else "trained", self.folder / "place"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.folder / home, place)


def write_faces(home: Path) -> None:
    """Write made-up pictures: 72 with tables, the same as a zip, and one in many formats."""
    rng, names = np.random.default_rng(7), [f"{index:03}.jpg" for index in range(72)]
    for folder in ("faces", "own", "out"):
        (home / folder).mkdir(parents=True)
    for index, name in enumerate(names):
        pixels = rng.integers(0, 60, (9, 11, 3)) + (120 if index % 2 else 20)
        picture = Image.fromarray(pixels.astype(np.uint8)).resize((44, 54))
        picture.save(home / "faces" / name, quality=90)
    attributes = [f"{i % 2 * 2 - 1:2d} {i % 4 // 2 * 2 - 1:2d}" for i in range(72)]
    splits = [0 if i < 48 else 1 + i % 2 for i in range(72)]
    for table, cells in zip(TABLES, (attributes, splits), strict=True):
        head = "" if cells is splits else "72\nSmiling Eyeglasses\n"
        rows = (f"{name} {cell}\n" for name, cell in zip(names, cells, strict=True))
        (home / table).write_text(head + "".join(rows))
    shutil.make_archive(str(home / "faces"), "zip", home / "faces")
    grey = Image.fromarray(rng.integers(0, 2**16, (54, 44), np.uint16))
    others = {"own/j.jpg": picture.convert("CMYK"), "own/l.png": grey}
    for name in PICTURES:
        others.get(name, picture).save(home / name)
    rows = [f"{name[4:]},{index % 2},text {index}\n" for index, name in enumerate(PICTURES)]
    (home / "own/metadata.csv").write_text("file_name,Tattoo,Note\n" + "".join(rows))


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Do the trials that are left, note each, print the faults and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--minutes", type=float, default=90, help="time after which no trial begins")
    add("--trials", type=int, help="number of trials; default: all that are planned")
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of faults; default: all")
    add("--seed", type=int, default=0, help="of all trials")
    add("--only", metavar="KIND:NUMBER", help="do one trial, and show what it prints")
    add("--folder", default="data/campaign", help="folder of the trials and of their log")
    args = parser.parse_args(argv)
    end, folder = time.monotonic() + 60 * args.minutes, Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"trials-{args.seed}.jsonl"
    bench = Bench(folder, verbose=bool(args.only))
    if args.only:
        kind, _, number = args.only.partition(":")
        print(json.dumps(do_trial(bench, args.seed, kind, int(number)), indent=1))
        return
    counts = {kind: KINDS[kind][1] or bench.operations for kind in args.kinds}
    order = ((n / count, kind, n) for kind, count in counts.items() for n in range(count))
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {(line["kind"], line["number"]) for line in done}
    for _, kind, number in sorted(order)[: args.trials]:  # all kinds advance together
        if (kind, number) not in known and time.monotonic() < end:
            done.append(do_trial(bench, args.seed, kind, number))
            with open(log, "a") as file:
                file.write(f"{json.dumps(done[-1])}\n")
            for fault in done[-1]["faults"]:
                print(f"{kind}:{number}  {fault}", flush=True)
    print_table(done)
    if faulty := sum(bool(line["faults"]) for line in done):
        raise RunStopped(f"{faulty} trials found a fault; --only KIND:NUMBER shows one again")


def do_trial(bench: Bench, seed: int, kind: str, number: int) -> dict[str, Any]:
    """Do one trial, and return what is noted of it."""
    rng, start = np.random.default_rng([seed, crc32(kind.encode()), number]), time.perf_counter()
    bench.reset(kind)
    trial = Trial(kind, number, rng, bench, bench.folder / "place")
    KINDS[kind][0](trial)
    noted = {name: getattr(trial, name) for name in ("kind", "number", "kills", "bits", "faults")}
    return noted | {"seconds": round(time.perf_counter() - start, 2)}


def print_table(done: Sequence[dict[str, Any]]) -> None:
    """Print trials and faults of each kind, and the bound that those without a fault give."""
    print(
        f"| kind | trials | kills | faulty | lost | tracebacks | bits | 95 % bound |\n{'|---' * 8}|"
    )
    for kind in (*KINDS, "all"):
        lines = [line for line in done if kind in ("all", line["kind"])]
        faulty = sum(bool(line["faults"]) for line in lines)
        words = Counter(fault.split(":")[0] for line in lines for fault in line["faults"])
        kills, bits = (sum(line[name] for line in lines) for name in ("kills", "bits"))
        bound = "" if faulty or not lines else f"{min(1, 3 / len(lines)):.2%}"  # the rule of three
        cells = (kind, len(lines), kills, faulty, words["lost"], words["traceback"], bits, bound)
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    sys.exit(main())
