"""Try to make the scripts lose work: kills, full disks, damaged files, wrong flags.

    python -m benchmarks.campaign --minutes 60              # goes on where the last call stopped
    python -m benchmarks.campaign --only signal:17          # one trial again, with what it printed

Each trial puts made-up faces, and mostly a small trained run, into an empty folder, does one thing
to them, and runs scripts there, in processes of their own. One rule judges: the right result, or
one line and exit code 1, 2, 130 or 143. A traceback, an earlier file that is lost or damaged, a bit
that differs from the run that nobody disturbed, a temporary file that is left, too much memory and
too much time are faults. Needs Linux.
"""

import argparse
import builtins
import contextlib
import copy
import csv
import functools
import io
import itertools
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
import typing
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import evaluate
import generate
import manipulate
import train
import train_judge
from config import EvaluateConfig, GenerateConfig, JudgeConfig, ManipulateConfig, TrainConfig
from vae.data.faces import load_config_faces
from vae.errors import UserError, script
from vae.flags import as_flag, read_flags

ROOT = Path(__file__).parent.parent
MEMORY = 2 * 2**30
"""bytes of address space that a script may take beyond what its imports take"""
PATIENCE = 30
"""seconds until a script counts as hanging; a trial takes about one"""
LONG = 8
"""seconds until work that flags made long gets a Ctrl-C"""
TIMES = {"seconds", "images_per_second"}
"""what differs between two runs of equal results"""
STOPS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

RUN = "run"
SMALL = ["--data", "faces", "--image-size", "32", "--batch-size", "16", "--device", "cpu"]
TRAIN = [*SMALL, "--channels", "4", "6", "--latent-dim", "5", "--epochs", "2", "--recipe", "sharp"]
TRAIN += ["--refiner-channels", "8", "8", "--refiner-epochs", "1"]
JUDGES = [*SMALL, "--epochs", "1", "--run-dir", "judges"]
GRID = ["generate", "--checkpoint", RUN, "--count", "4", "--columns", "2"]
DRAW = [
    GRID,
    [*GRID, "--refine", "--output", "out/grid.jpg"],
    [*GRID, "--show", "traversal", "--output", "out/traversal.jpg"],
    [*GRID, "--output", "out/grid.webp", "--files", "out"],
    ["manipulate", "--checkpoint", RUN, "--faces", "0", "--output", "out/sweep.png", "--gif"],
    ["evaluate", "--checkpoint", RUN],
]
RESUME = ["train", "--resume", RUN, "--refiner-epochs", "2"]
BASES = {
    "train": (TrainConfig, TRAIN),
    "train_judge": (JudgeConfig, JUDGES),
    "generate": (GenerateConfig, GRID[1:]),
    "manipulate": (ManipulateConfig, ["--checkpoint", RUN, "--faces", "0", "1"]),
    "evaluate": (EvaluateConfig, ["--checkpoint", RUN]),
}


@script
def load(argv: Sequence[str] | None = None) -> None:
    """Load the faces as train.py does, without training."""
    print(*load_config_faces(read_flags(TrainConfig, argv, load.__doc__)).description, sep="\n")


SCRIPTS = {module.__name__: module.main for module in (train, train_judge, generate, manipulate)}
SCRIPTS |= {"evaluate": evaluate.main, "load": load}


class Ended(NamedTuple):
    """How a process ended."""

    code: int | None  # minus the number of the signal that killed it; None: it hung
    err: str
    was_signalled: bool


@dataclass
class Trial:
    """One trial: its place, its random numbers, and what was found."""

    kind: str
    number: int
    rng: np.random.Generator
    bench: "Bench"
    faults: list[str] = field(default_factory=list)
    kills: int = 0
    bits: int = 0

    @property
    def place(self) -> Path:
        """The folder in which the scripts run."""
        return self.bench.folder / "place"

    def fault(self, what: str, detail: str = "") -> None:
        """Note a fault: its kind in one word, and what was seen."""
        self.faults.append(f"{what}: {detail}")

    def pick(self, values: Sequence[Any]) -> Any:
        """Return one of values, at random."""
        return values[int(self.rng.integers(len(values)))]

    def run(self, argv: Sequence[str], **options: Any) -> Ended:
        """Run a script to its end, and judge how it ended."""
        [ended] = self.run_together([argv], **options)
        return ended

    def run_together(
        self,
        argvs: Sequence[Sequence[str]],
        stop: tuple[float, int] | None = None,
        hook: Callable[[], None] = lambda: None,
        execute: bool = False,
        patience: float = PATIENCE,
        environment: dict[str, str] | None = None,
    ) -> list[Ended]:
        """Run scripts at once, each in a process of its own; judge how each ended.

        stop is the moment in seconds and the number of a signal. hook is called in the process,
        before the script. execute starts a new interpreter instead of a copy of this process.
        """
        paths = [self.bench.folder / f"output-{index}.txt" for index in range(2 * len(argvs))]
        started = []
        for argv, out, err in zip(argvs, paths[::2], paths[1::2], strict=True):
            started.append(self._start(argv, out, err, hook, execute, environment))
        return [
            self._judged(argv, _wait(pid, err, stop, patience), stop, out)
            for argv, pid, out, err in zip(argvs, started, paths[::2], paths[1::2], strict=True)
        ]

    def _start(self, argv, out, err, hook, execute, environment) -> int:
        sys.stdout.flush()
        if pid := os.fork():
            return pid
        code = 1
        try:
            os.chdir(self.place)
            for number, path in enumerate((os.devnull, out, err)):
                flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
                os.dup2(os.open(path, flags if number else os.O_RDONLY), number)
            limit = self.bench.address_space + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            hook()
            if execute:
                arguments = [sys.executable, str(ROOT / f"{argv[0]}.py"), *argv[1:]]
                os.execve(sys.executable, arguments, {**os.environ, **(environment or {})})
            code = SCRIPTS[argv[0]](argv[1:])
            sys.stdout.flush()
        except KeyboardInterrupt:  # before or after the script, in the lines above
            code = 130
        except BaseException:  # what an interpreter does
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def _judged(self, argv, ended: Ended, stop, out: Path) -> Ended:
        self.kills += ended.was_signalled
        if self.bench.verbose:
            print("$", *argv, f"-> {ended.code}", out.read_text(errors="replace"), ended.err)
        number, lines = stop[1] if stop else 0, ended.err.splitlines()
        seen = f"{' '.join(argv)}: {' / '.join(lines[-2:])}"[:400]
        if ended.code is None:
            self.fault("hang", seen)
        elif "Traceback" in ended.err or (ended.code < 0 and -ended.code != number):
            self.fault("traceback", f"exit {ended.code}, {seen}")
        elif ended.code not in (0, 1, 2, 130, 143, -number):
            self.fault("code", f"exit {ended.code}, {seen}")
        elif len(lines) != (ended.code > 0) and not (ended.code in (130, 143) and not lines):
            self.fault("lines", f"exit {ended.code}, {len(lines)} lines on stderr, {seen}")
        elif ended.code in (130, 143) and ended.code != 128 + number:
            self.fault("code", f"exit {ended.code} without that signal, {seen}")
        if ended.code is not None and ended.code >= 0:
            for path in self.place.rglob("*partial*"):
                self.fault("left", f"{path.relative_to(self.place)} after {seen}")
        return ended

    def require_code(self, ended: Ended, *codes: int) -> None:
        """Note a fault if a script did not end with one of codes."""
        if ended.code not in codes and not self.faults:
            self.fault("code", f"exit {ended.code}, expected {codes}: {ended.err.strip()[-300:]}")

    def compare(self, expected: dict[str, Any], found: dict[str, Any]) -> None:
        """Note a fault for each part that is missing, and for the bits that differ."""
        if missing := sorted(expected.keys() ^ found.keys()):
            self.fault("lost", f"missing or too much: {', '.join(missing)[:300]}")
        other = [name for name in expected.keys() & found.keys() if expected[name] != found[name]]
        bits = sum(differing_bits(expected[name], found[name]) for name in other)
        self.bits += bits
        if other:
            self.fault("bits", f"{bits} bits differ in {', '.join(sorted(other))[:300]}")

    def require_progress(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """Return how far the run is; note a fault if a file is not whole or work was lost."""
        reached: tuple[int, ...] = ()
        for path in sorted((self.place / RUN).glob("[!.]*.pt")):
            try:
                stored = torch.load(path, weights_only=True)
            except (RuntimeError, ValueError, EOFError, OSError) as error:
                self.fault("lost", f"{path.name} is not whole: {error}")
                continue
            if path.name == "last.pt":
                epoch = stored["refiner"]["epoch"] if stored["refiner"] else stored["epoch"]
                reached = (bool(stored["refiner"]), epoch, stored["training"]["steps"])
        if reached < before:
            self.fault("lost", f"last.pt was at {before}, is at {reached}")
        return reached


def _wait(pid: int, err: Path, stop: tuple[float, int] | None, patience: float) -> Ended:
    """Return how a process ended. One that hangs gets Ctrl-C if it was given LONG, and is killed"""
    handle, signalled = os.pidfd_open(pid), False
    try:
        if stop and not select.select([handle], [], [], stop[0])[0]:
            signal.pidfd_send_signal(handle, stop[1])
            signalled = True
        hung = not select.select([handle], [], [], patience)[0]
        if hung:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        _, status, _ = os.wait4(pid, 0)
    finally:
        os.close(handle)
    code = None if hung else os.waitstatus_to_exitcode(status)
    return Ended(code, err.read_text(errors="replace"), signalled)


# What is compared


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a checkpoint with their names, tensors as bytes, without TIMES."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in pairs:
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
        if path.suffix == ".pt":
            parts |= {name + key: part for key, part in flatten(torch.load(path))}
        elif path.suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(path.read_text())))
            parts |= {name + key: part for key, part in flatten(rows)}
        elif path.is_file() and not path.is_symlink():
            parts[name] = path.read_bytes()
    return parts


def snapshot(folder: Path) -> dict[Path, bytes]:
    """Return the bytes of all plain files in a folder; of the huge ones none."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    small = (path for path in paths if path.stat().st_size < 2**26)
    return {path.relative_to(folder): path.read_bytes() for path in small}


def differing_bits(one: bytes, other: bytes) -> int:
    """Return the number of bits in which two byte strings differ, all where lengths do."""
    if len(one) != len(other):
        return 8 * max(len(one), len(other))
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


# The faults: each function does one trial


def stopped(trial: Trial) -> None:
    """Signals at random moments of a training and of its resumptions, then a last resumption."""
    execute = trial.number % 8 == 0
    seconds = trial.bench.seconds + (3 if execute else 0)
    reached = ()
    for _ in range(trial.rng.integers(1, 4)):
        stop = (trial.rng.uniform(0, seconds), int(trial.pick(STOPS)))
        trial.run(train_or_resume(trial), stop=stop, execute=execute)
        reached = trial.require_progress(reached)
    finish_and_compare(trial)


def train_or_resume(trial: Trial) -> list[str]:
    """Return the command that a user gives next."""
    if (trial.place / RUN / "last.pt").exists():
        return ["train", "--resume", RUN]
    return ["train", *TRAIN, "--run-dir", RUN]


def finish_and_compare(trial: Trial) -> None:
    """Finish the training; its folder must be that of the undisturbed one."""
    trial.require_code(trial.run(train_or_resume(trial)), 0)
    if not trial.faults:
        trial.compare(trial.bench.trained, contents(trial.place / RUN))


def at_operation(trial: Trial) -> None:
    """A kill before, within or after an operation on a file, in a training; then the resumption."""
    ended = trial.run(
        ["train", *TRAIN, "--run-dir", RUN],
        hook=functools.partial(count_operations, trial.number),
        stop=(PATIENCE, signal.SIGKILL),
    )
    trial.kills += 1
    trial.require_code(ended, -signal.SIGKILL)
    trial.require_progress(())
    finish_and_compare(trial)


def count_operations(kill_at: int | None = None, log: Path | None = None) -> None:
    """Count the moments around operations on files from now on; at one of them, kill this process.

    log gets a byte for each moment.
    """
    counter, open_before = itertools.count(), builtins.open

    def moment() -> None:
        if next(counter) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if log:
            with open_before(log, "ab") as file:
                file.write(b".")

    def counted(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args: Any, **options: Any) -> Any:
            moment()
            found = function(*args, **options)
            moment()
            return found

        return wrapped

    class Written:
        """A file whose writes are counted, and are done in two halves."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def __enter__(self) -> "Written":
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()
            moment()

        def write(self, content: Any) -> int:
            half = len(content) // 2
            for part in (content[:half], content[half:]):
                moment()
                self.stream.write(part)
                self.stream.flush()
            moment()
            return len(content)

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return open_before(file, mode, *args, **options)
        return Written(counted(open_before)(file, mode, *args, **options))

    builtins.open = io.open = opened
    for name in ("fsync", "replace", "rename", "unlink", "remove", "mkdir", "link", "open"):
        setattr(os, name, counted(getattr(os, name)))
    os.posix_fallocate = counted(os.posix_fallocate)


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Callable[[], None]]:
    """Put what is in place onto a disk with size more bytes; yield a function that enlarges it."""
    aside = place.with_name("aside")
    shutil.rmtree(aside, ignore_errors=True)
    place.rename(aside)
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
        shutil.copytree(aside, place, dirs_exist_ok=True, symlinks=True)
        used = shutil.disk_usage(place).used
        resize = ["mount", "-o", f"remount,size={used + max(size, 4096)}", place]
        subprocess.run(resize, check=True)
        resize[2] = "remount,size=1g"
        yield functools.partial(subprocess.run, resize, check=True)
    finally:
        subprocess.run(["umount", place], check=True)


def full_disk(trial: Trial) -> None:
    """A training on a disk that gets full; then the resumption on a larger one."""
    size = round(trial.number / KINDS["full-disk"].trials * trial.bench.bytes_trained)
    with small_disk(trial.place, size) as enlarge:
        trial.require_code(trial.run(["train", *TRAIN, "--run-dir", RUN]), 0, 1, 2)
        trial.require_progress(())
        enlarge()
        finish_and_compare(trial)


def full_disk_drawing(trial: Trial) -> None:
    """Pictures and numbers on a disk that gets full, over earlier ones."""
    argv = DRAW[trial.number % len(DRAW)]
    expected = expected_output(trial, argv)
    size = trial.number * 4096
    for name in expected:  # earlier files
        (trial.place / name).parent.mkdir(exist_ok=True)
        (trial.place / name).write_bytes(b"earlier")
    with small_disk(trial.place, size):
        before = snapshot(trial.place)
        ended = trial.run(argv)
        after = snapshot(trial.place)
    trial.require_code(ended, 0, 1, 2)
    for name, content in expected.items():
        if after.get(name) not in ((content,) if ended.code == 0 else (content, before[name])):
            trial.fault("lost", f"{name} after {argv}")


def stopped_drawing(trial: Trial) -> None:
    """A signal while pictures and numbers are made over earlier ones."""
    argv = DRAW[trial.number % len(DRAW)]
    expected = expected_output(trial, argv)
    for name in expected:
        (trial.place / name).parent.mkdir(exist_ok=True)
        (trial.place / name).write_bytes(b"earlier")
    stop = (trial.rng.uniform(0, trial.bench.seconds_drawn[tuple(argv)]), int(trial.pick(STOPS)))
    trial.run(argv, stop=stop)
    for name, content in expected.items():
        if (trial.place / name).read_bytes() not in (content, b"earlier"):
            trial.fault("lost", f"{name} is half of {argv}")


def expected_output(trial: Trial, argv: Sequence[str]) -> dict[Path, bytes]:
    """Return the files that a command makes or changes in an undisturbed home, and reset it."""
    known = trial.bench.outputs
    if tuple(argv) not in known:
        before, start = snapshot(trial.place), time.perf_counter()
        trial.require_code(trial.run(argv), 0)
        trial.bench.seconds_drawn[tuple(argv)] = time.perf_counter() - start
        after = snapshot(trial.place)
        known[tuple(argv)] = {
            name: content for name, content in after.items() if before.get(name) != content
        }
        trial.bench.reset(trial.kind)
    return known[tuple(argv)]


def two_at_once(trial: Trial) -> None:
    """Two trainings in one folder, started together."""
    same = ["--run-dir", RUN] if trial.number % 2 else []
    one, other = trial.run_together([["train", *TRAIN, *same]] * 2)
    folders = [trial.place / RUN] if same else sorted((trial.place / "runs").iterdir())
    codes = sorted((one.code, other.code))
    if codes != ([0, 2] if same else [0, 0]) or len(folders) != 2 - len(same) // 2:
        trial.fault("lost", f"exits {codes}, folders {[folder.name for folder in folders]}")
    for folder in folders:
        trial.compare(trial.bench.trained, contents(folder))


def damaged(trial: Trial, content: bytes) -> bytes:
    """Return content with bits turned, or a part cut off, out, set to zero, random or doubled."""
    rng, size = trial.rng, len(content)
    start = int(rng.integers(size))
    if rng.random() < 0.3:  # directories and headers stand at the ends
        start = size - 1 - start % min(size, 2000) if rng.random() < 0.7 else start % 200 % size
    end = min(size, start + int(2 ** rng.uniform(0, 12)))
    changed = bytearray(content)
    way = trial.number % 7
    if way in (0, 1):
        for place in (start, *rng.integers(size, size=3 * way)):
            changed[place] ^= 1 << int(rng.integers(8))
    replacements = (b"", b"", b"", bytes(end - start), rng.bytes(end - start))
    replacements += (content[start:end] * 2, b"")
    if way == 2:
        end = size
    if way >= 2:
        changed[start:end] = replacements[way]
    return bytes(changed)


def damage_file(trial: Trial, name: str, argv: Sequence[str], strict: bool) -> None:
    """Damage a file, run a command, and compare: if it succeeds, with the undamaged result."""
    expected = expected_output(trial, argv) if strict else {}
    path = trial.place / name
    path.write_bytes(damaged(trial, path.read_bytes()))
    use_damaged(trial, argv, expected, strict)


def use_damaged(
    trial: Trial, argv: Sequence[str], expected: dict[Path, bytes], strict: bool
) -> None:
    """Run a command on damaged files; nothing may be lost, and a success must be a right one."""
    before = snapshot(trial.place)
    ended = trial.run(argv)
    after = snapshot(trial.place)
    changed = {name for name, content in before.items() if after.get(name) != content}
    changed -= {name for name in changed if name.parts[0] == "cache"}  # made again
    if ended.code == 2 and changed:
        trial.fault("lost", f"exit 2 changed {sorted(map(str, changed))}")
    if argv[0] == "train" and ended.code == 0:
        trial.require_progress(())
    if ended.code == 0 and strict:
        for name, content in expected.items():
            if name.suffix in (".png", ".jpg", ".webp", ".npy") and after.get(name) != content:
                self_bits = differing_bits(content, after.get(name, b""))
                trial.bits += self_bits
                trial.fault("bits", f"{self_bits} bits of {name} differ: {' '.join(argv)}")


CHECKPOINTS = [
    (f"{RUN}/best.pt", GRID),
    (f"{RUN}/best.pt", [*GRID, "--refine", "--output", "out/grid.jpg"]),
    (f"{RUN}/last.pt", RESUME),
    (f"{RUN}/last.pt", ["train", "--resume", RUN]),
    ("judges/guide.pt", [*DRAW[4][:-1], "--to", "0.9", "--judges", "judges"]),
    ("judges/judge.pt", [*DRAW[5], "--judges", "judges"]),
]


def damaged_checkpoint(trial: Trial) -> None:
    """A checkpoint whose bytes are damaged."""
    damage_file(trial, *CHECKPOINTS[trial.number // 7 % len(CHECKPOINTS)], strict=True)


WRONG: list[Any] = [None, True, 0, -1, 1, 7, 2_000_000, 2**70, 0.5, -1e30, float("nan")]
WRONG += [float("inf"), "", "x", "skip", "x" * 10_000, [], [0, 0, 0], ["a"], {}, {"a": 1}]
WRONG += [torch.zeros(()), torch.zeros(0), torch.zeros(3, 2), torch.full((5,), torch.nan)]
WRONG += [torch.zeros(5, dtype=torch.int64), torch.zeros(1).expand(2**40)]


def wrong_contents(trial: Trial) -> None:
    """A whole checkpoint with one wrong part."""
    name, argv = CHECKPOINTS[trial.number % len(CHECKPOINTS)]
    stored = copy.deepcopy(torch.load(trial.place / name))
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
        print(f"{name}: {key} becomes {str(wrong)[:200]}")
    torch.save(stored, trial.place / name)
    use_damaged(trial, argv, {}, strict=False)


def damaged_cache(trial: Trial) -> None:
    """A packed array, or its description, that is damaged."""
    [path] = (trial.place / "cache").glob("faces-*" + (".json" if trial.number % 3 else ".npy"))
    argv = ["load", *SMALL, "--cache-dir", "cache"] if trial.number % 4 else RESUME
    damage_file(trial, str(path.relative_to(trial.place)), argv, strict=True)


TOKENS = [b"", b"nan", b"1e999", b"9" * 5000, b"\0", b"\xff\xfe", b'"', b",", b"\n", b"\r", b"2"]
TOKENS += [b"-1", b" 1", "\u0663".encode(), b"x" * 200_000, b"../../x.jpg", b"1\n1\n"]


def damaged_table(trial: Trial) -> None:
    """A table that is damaged, or in which one word is another."""
    folder, name = trial.pick(
        [
            ("faces", "list_attr_celeba.txt"),
            ("faces", "list_eval_partition.txt"),
            ("faces", "identity_CelebA.txt"),
            ("own", "metadata.csv"),
        ]
    )
    path = trial.place / folder / name
    content = path.read_bytes()
    if trial.number % 2:
        content = damaged(trial, content)
    else:
        words = content.replace(b",", b" , ").split(b" ")
        words[trial.rng.integers(len(words))] = trial.pick(TOKENS)
        content = b" ".join(words).replace(b" , ", b",")
    path.write_bytes(content)
    if trial.number % 8:
        argv = ["load", *SMALL, "--data", folder]
    else:
        argv = ["train", *TRAIN, "--data", folder, "--epochs", "1", "--refiner-epochs", "0"]
    use_damaged(trial, argv, {}, strict=False)


def damaged_archive(trial: Trial) -> None:
    """A zip of pictures that is damaged."""
    skip = ["--skip-bad-images"] if trial.number % 2 else []
    damage_file(trial, "faces.zip", ["load", *SMALL, "--data", "faces.zip", *skip], strict=False)


def damaged_picture(trial: Trial) -> None:
    """A picture that is damaged, as --image or in the data."""
    picture = trial.pick(sorted(path.name for path in (trial.place / "own").glob("*.*")))
    if picture == "metadata.csv" or trial.number % 4 == 0:
        picture = trial.pick(["a.jpg", "b.png", "c.webp", "d.gif", "e.bmp", "f.tiff"])
        argv = ["load", *SMALL, "--data", "own", *(["--skip-bad-images"] * (trial.number % 8 == 0))]
    else:
        argv = [*GRID, "--show", "reconstructions", "--image", f"own/{picture}"]
    damage_file(trial, f"own/{picture}", argv, strict=False)


def make_strange(trial: Trial, path: Path) -> None:
    """Put something else in the place of a file or a folder."""
    kinds = ("pipe", "folder", "dangling", "loop", "empty", "endless", "huge", "missing", "socket")
    kind = kinds[trial.number % len(kinds)]
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    links = {"dangling": "nowhere", "loop": path.name, "endless": "/dev/zero", "socket": "/dev/tty"}
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in links:
        path.symlink_to(links[kind])
    elif kind in ("empty", "huge"):
        path.touch()
        os.truncate(path, 2**34 if kind == "huge" else 0)


STRANGE = [
    (f"{RUN}/best.pt", GRID),
    (f"{RUN}/last.pt", RESUME),
    (f"{RUN}/config.json", RESUME),
    (f"{RUN}/faces.txt", RESUME),
    (f"{RUN}/metrics.csv", RESUME),
    (RUN, GRID),
    (RUN, RESUME),
    ("judges/guide.pt", CHECKPOINTS[4][1]),
    ("judges", CHECKPOINTS[4][1]),
    ("own/a.jpg", [*GRID, "--show", "reconstructions", "--image", "own/a.jpg"]),
    ("own/b.png", ["load", *SMALL, "--data", "own"]),
    ("own/metadata.csv", ["load", *SMALL, "--data", "own"]),
    ("faces/list_attr_celeba.txt", ["load", *SMALL]),
    ("faces/list_eval_partition.txt", ["train", *TRAIN]),
    ("faces", RESUME),
    ("faces.zip", ["load", *SMALL, "--data", "faces.zip"]),
    ("data/cache", ["load", *SMALL]),
    ("data", ["load", *SMALL]),
    ("cache/NPY", ["load", *SMALL, "--cache-dir", "cache"]),
    ("cache/JSON", ["load", *SMALL, "--cache-dir", "cache"]),
]


def strange_file(trial: Trial) -> None:
    """A pipe, a folder, a link to nowhere, a device ... where a file is expected."""
    name, argv = STRANGE[trial.number // 9]
    path = trial.place / name
    if path.name in ("NPY", "JSON"):
        [path] = path.parent.glob(f"*.{path.name.lower()}")
    make_strange(trial, path)
    use_damaged(trial, argv, {}, strict=False)


NUMBERS = ["-1", "0", "1", "2", "3", "5", "32", "33", "100", "8192", "65536", "1000000000"]
NUMBERS += ["9" * 20, "-" + "9" * 20, "9" * 5000, "1e3", "0.5", "1e-320", "1e38", "1e39", "1e400"]
NUMBERS += ["nan", "inf", "-inf", "", "x", "\u0663", "1_0", "0x10", " 4 "]
TEXTS = ["", ".", "nowhere", "out/new", "faces", "own/a.jpg", "own", "faces.zip", RUN, "judges"]
TEXTS += [
    "cpu",
    "cuda:99",
    "x" * 300,
    "x/" * 3000,
    "a\nb",
    "\udcff.png",
    "\udcff",
    "a.png",
    "b.jpg",
]
TEXTS += ["faces/x.png", "own/a.jpg/x.webp", "/proc/nowhere/x.json", "/dev/full", "out/e.json"]
TEXTS += ["Smiling", "smilin", "\u263a.png", "pretrained", f"{RUN}/last.pt", "synthetic"]


def random_flags(trial: Trial) -> None:
    """Flags with values from the edges of their types; what takes long is interrupted."""
    name = trial.pick(list(BASES))
    config_class, argv = BASES[name]
    hints, argv = typing.get_type_hints(config_class), [name, *argv]
    for entry in trial.rng.permutation(fields(config_class))[: trial.rng.integers(1, 4)]:
        if entry.name == "download":
            continue
        flag, hint = as_flag(entry.name), hints[entry.name]
        if hint is bool:
            argv.append(trial.pick([flag, flag.replace("--", "--no-", 1)]))
            continue
        is_text = "str" in str(hint)
        values = [*entry.metadata.get("choices", TEXTS), "x"] if is_text else NUMBERS
        count = trial.rng.integers(4) if "tuple" in str(hint) else 1
        argv += [flag, *(trial.pick(values) for _ in range(count))]
    before = snapshot(trial.place)
    ended = trial.run(argv, stop=(LONG, signal.SIGINT))
    if ended.code == 2 and snapshot(trial.place).items() - before.items() < before.items():
        pass
    if lost := [str(path) for path in before if not (trial.place / path).exists()]:
        trial.fault("lost", f"{lost} after {argv}")


ENVIRONMENTS: list[dict[str, str]] = [
    {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    {"MPLBACKEND": "nonsense"},
    {"RANK": "0"},
    {"RANK": "1", "WORLD_SIZE": "2"},
    {"WORLD_SIZE": "2"},
    {"LOCAL_RANK": "5"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"COLUMNS": "1"},
    {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent"},
    {"TMPDIR": "/nonexistent"},
    {"CUDA_VISIBLE_DEVICES": "nonsense"},
    {"TERM": "dumb"},
    {"CLOSED": "1"},
    {"CLOSED": "2"},
    {"CLOSED": "0"},
]


def strange_environment(trial: Trial) -> None:
    """Environments as notebooks, clusters and services have them, and closed streams."""
    argv = ([*GRID, "--output", "out/\u263a.png"], ["train", *TRAIN], ["evaluate", "--help"])[
        trial.number % 3
    ]
    environment = ENVIRONMENTS[trial.number // 3]
    closed = environment.get("CLOSED")
    hook = functools.partial(os.close, int(closed)) if closed else lambda: None
    ended = trial.run(argv, execute=True, environment=environment, hook=hook)
    trial.require_code(ended, 0, *((2,) if "RANK" in str(environment) else ()))


class Kind(NamedTuple):
    """A kind of fault."""

    trial: Callable[[Trial], None]
    trials: int | None  # how many are planned; None: one for each operation on files
    is_trained: bool = True  # whether it starts from a trained run


KINDS = {
    "signal": Kind(stopped, 240, is_trained=False),
    "operation": Kind(at_operation, None, is_trained=False),
    "signal-drawing": Kind(stopped_drawing, 90),
    "two-at-once": Kind(two_at_once, 20, is_trained=False),
    "full-disk": Kind(full_disk, 60, is_trained=False),
    "full-disk-drawing": Kind(full_disk_drawing, 90),
    "checkpoint": Kind(damaged_checkpoint, 1500),
    "contents": Kind(wrong_contents, 1200),
    "cache": Kind(damaged_cache, 400),
    "table": Kind(damaged_table, 1000),
    "archive": Kind(damaged_archive, 500),
    "picture": Kind(damaged_picture, 1500),
    "strange": Kind(strange_file, 9 * len(STRANGE)),
    "flags": Kind(random_flags, 800),
    "environment": Kind(strange_environment, 3 * len(ENVIRONMENTS)),
}


# The loop


class Bench:
    """The folder of a campaign: prepared homes, the place of the trials, what undisturbed gives."""

    def __init__(self, folder: Path, verbose: bool) -> None:
        self.folder, self.verbose = folder.absolute(), verbose
        self.outputs: dict[tuple[str, ...], dict[Path, bytes]] = {}
        self.seconds_drawn: dict[tuple[str, ...], float] = {}
        torch.set_num_threads(1)
        status = Path("/proc/self/status").read_text().split("VmSize:")[1]
        self.address_space = 1024 * int(status.split()[0])
        limit = self.address_space + 2 * MEMORY  # a fault of ours must not fill the machine
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def reset(self, kind: str) -> None:
        """Make the place of the trials as it is before a trial of this kind."""
        home = self.folder / ("trained" if KINDS[kind].is_trained else "untrained")
        shutil.rmtree(self.folder / "place", ignore_errors=True)
        shutil.copytree(home, self.folder / "place", symlinks=True)

    def prepare(self) -> None:
        """Make the homes; train undisturbed, with its time, its bytes and its operations."""
        for name in ("place", "trained", "untrained"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        place, log = self.folder / "place", self.folder / "operations"
        write_faces(self.folder / "untrained")
        self.reset("signal")
        trial, argv = Trial("prepare", 0, np.random.default_rng(0), self), ["train", *TRAIN]
        log.unlink(missing_ok=True)
        trial.run([*argv, "--run-dir", RUN], hook=functools.partial(count_operations, log=log))
        self.operations = log.stat().st_size if log.exists() else 0
        self.reset("signal")
        start = time.perf_counter()
        trial.run([*argv, "--run-dir", RUN])
        self.seconds = time.perf_counter() - start
        if trial.faults:
            raise UserError(f"the undisturbed training fails: {trial.faults[0]}")
        self.trained = contents(place / RUN)
        made = (path for name in (RUN, "data") for path in (place / name).rglob("*"))
        self.bytes_trained = sum(path.stat().st_size + 4096 for path in made) + 600_000
        trial.run(["train_judge", *JUDGES])
        trial.run(["load", *SMALL, "--cache-dir", "cache"])
        for picture in place.glob(f"{RUN}/*.png"):
            picture.unlink()
        shutil.copytree(place, self.folder / "trained", symlinks=True)


def write_faces(home: Path) -> None:
    """Write made-up pictures: 72 with tables, the same as a zip, and a few of other formats."""
    rng, rows = np.random.default_rng(7), []
    (home / "own").mkdir(parents=True)
    (home / "faces").mkdir()
    for index in range(72):
        pixels = rng.integers(0, 60, (9, 11, 3)) + (120 if index % 2 else 20)
        picture = Image.fromarray(pixels.astype(np.uint8)).resize((44, 54))
        picture.save(home / f"faces/{index:03d}.jpg", quality=90)
        rows.append((f"{index:03d}.jpg", 1 - index % 2 * 2, 1 if index % 4 < 2 else -1))
    splits, people = ([(row[0], value) for row in rows] for value in (0, 1))
    splits = [(row[0], 0 if index < 48 else 1 + index % 2) for index, row in enumerate(rows)]
    people = [(row[0], index // 3) for index, row in enumerate(rows)]
    tables = {
        "list_attr_celeba.txt": [("72",), ("Smiling", "Eyeglasses"), *rows],
        "list_eval_partition.txt": splits,
        "identity_CelebA.txt": people,
    }
    for name, table in tables.items():
        text = "".join(" ".join(map(str, row)) + "\n" for row in table)
        (home / "faces" / name).write_text(text)
    with zipfile.ZipFile(home / "faces.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((home / "faces").iterdir()):
            archive.write(path, path.name)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(home / "own/a.jpg", exif=exif)
    for name in ("b.png", "c.webp", "d.gif", "e.bmp", "f.tiff", "g.ppm", "h.tga", "i.jp2"):
        picture.save(home / "own" / name)
    picture.convert("CMYK").save(home / "own/j.jpg")
    picture.convert("LA").save(home / "own/k.png")
    Image.fromarray(rng.integers(0, 2**16, (44, 54), np.uint16)).save(home / "own/l.png")
    names = sorted(path.name for path in (home / "own").iterdir())
    lines = [f"{name},{index % 2},{index % 3},val\n" for index, name in enumerate(names)]
    (home / "own/metadata.csv").write_text("file_name,Tattoo,Note,split\n" + "".join(lines))


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Run the trials that are left, note each, print the table and every fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--minutes", type=float, default=60, help="time after which no trial begins")
    add("--seed", type=int, default=0, help="of all trials")
    add("--fraction", type=float, default=1, help="of the planned trials")
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of faults")
    add("--only", metavar="KIND:NUMBER", help="do one trial, and show what it prints")
    add("--retry", action="store_true", help="do the trials with faults again")
    add("--folder", default="data/campaign", help="of the trials and their log; is emptied")
    args = parser.parse_args(argv)
    end = time.monotonic() + 60 * args.minutes
    bench = Bench(Path(args.folder), verbose=bool(args.only))
    bench.folder.mkdir(parents=True, exist_ok=True)
    log = bench.folder / f"trials-{args.seed}.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if args.retry:
        done = [line for line in done if not line["faults"]]
        log.write_text("".join(f"{json.dumps(line)}\n" for line in done))
    bench.prepare()
    if args.only:
        kind, _, number = args.only.partition(":")
        print(json.dumps(do_trial(bench, args.seed, kind, int(number)), indent=1))
        return
    left = planned(bench, args.kinds, args.fraction)
    known = {(line["kind"], line["number"]) for line in done}
    for kind, number in left:
        if time.monotonic() > end:
            break
        if (kind, number) in known:
            continue
        done.append(do_trial(bench, args.seed, kind, number))
        with open(log, "a") as file:
            file.write(f"{json.dumps(done[-1])}\n")
        for fault in done[-1]["faults"]:
            print(f"{kind}:{number}  {fault}", flush=True)
    print_table(done)


def planned(bench: Bench, kinds: Sequence[str], fraction: float) -> list[tuple[str, int]]:
    """Return the trials in an order in which all kinds advance together."""
    order = []
    for kind in kinds:
        count = KINDS[kind].trials or bench.operations
        wanted = np.linspace(0, count - 1, max(1, round(count * fraction))).round().astype(int)
        order += [((at + 0.5) / len(wanted), kind, int(n)) for at, n in enumerate(wanted)]
    return [(kind, number) for _, kind, number in sorted(order)]


def do_trial(bench: Bench, seed: int, kind: str, number: int) -> dict[str, Any]:
    """Do one trial, and return what is noted of it."""
    rng = np.random.default_rng([seed, crc32(kind.encode()), number])
    trial = Trial(kind, number, rng, bench)
    bench.reset(kind)
    start = time.perf_counter()
    KINDS[kind].trial(trial)
    noted = {"kind": kind, "number": number, "kills": trial.kills, "bits": trial.bits}
    return noted | {"faults": trial.faults, "seconds": round(time.perf_counter() - start, 2)}


def print_table(done: Sequence[dict[str, Any]]) -> None:
    """Print trials, kills and faults of each kind, and the bound that a kind without faults has."""
    print("| kind | trials | kills | with a fault | lost | tracebacks | bits | 95 % bound |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in (*KINDS, "all"):
        lines = [line for line in done if kind in ("all", line["kind"])]
        if not lines:
            continue
        failed = sum(bool(line["faults"]) for line in lines)
        words = Counter(fault.split(":")[0] for line in lines for fault in line["faults"])
        kills, bits = (sum(line[name] for line in lines) for name in ("kills", "bits"))
        bound = "" if failed else f"{3 / len(lines):.2%}"
        cells = (kind, len(lines), kills, failed, words["lost"], words["traceback"], bits, bound)
        print(f"| {' | '.join(map(str, cells))} |")
    print(f"{sum(line['seconds'] for line in done) / 60:.0f} minutes of trials")


if __name__ == "__main__":
    sys.exit(main())
