"""Mutation testing: ``python tests/mutation/run.py --count 300 engine``.

Changes one place of the code at a time, in a copy, and runs the tests that call the function around it: first
those beside the file, then the others, the fastest first. Prints which changes no test notices. Each mutant
gets a process forked from one that has imported the libraries, and hypothesis does not shrink, since which
example fails does not matter.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from calls import noting
from hypothesis import Phase, settings
from mutants import Site, mutant, sites

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "mutation"
TESTS = {
    "engine": ["tests/engine", "tests/commands", "tests/test_invariants.py"],
    "export": ["tests/export", "tests/commands/test_export.py", "tests/test_invariants.py"],
}
LIBRARIES = {
    "engine": [
        "numpy",
        "cv2",
        "PIL.Image",
        "onnxruntime",
        "simplejpeg",
        "yaml",
        "click",
        "hypothesis.stateful",
    ],
    "export": [
        "numpy",
        "cv2",
        "onnxruntime",
        "torch",
        "torchvision",
        "timm",
        "onnx",
        "onnxsim",
        "safetensors",
    ],
}
SECONDS = 30.0  # of tests for one mutant, as they took while their calls were written down
HANGS = 300.0  # seconds after which a mutant counts as noticed
MEMORY = 16 << 30  # bytes of address space
SURVIVED, UNTESTED = "survived", "no test calls it"

Calls = dict[str, tuple[float, list[str]]]  # test -> seconds, functions


def copied(name: str) -> Path:
    """A copy of the tracked files."""
    tree = OUTPUT / name
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in listed.stdout.split("\0")[:-1]:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, tree / path)
    (tree / "build" / "types").mkdir(parents=True)
    (tree / "build" / "types" / "simmap").symlink_to("../..")
    return tree


def recorded(package: str, files: list[str]) -> Calls:
    """Run tests and see what of a package they call."""
    tree, folder = copied("calls"), OUTPUT / "calls-of-processes"
    for path in (tree / package).rglob("*.py"):
        path.write_text(noting(path.read_text(), str(path.relative_to(tree))))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    command = ["-m", "pytest", "-q", "-n", "auto", "-p", "calls", "-p", "no:cacheprovider", *files]
    paths = os.pathsep.join((str(tree / "build" / "types"), str(Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": paths, "MUTATION_CALLS": str(folder)}
    subprocess.run([sys.executable, *command], cwd=tree, env=environment, check=False)
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return dict(json.loads(line) for line in lines)


def calls_of_tests(package: str) -> Calls:
    """What each test of a package calls; kept, and only files of tests that have changed are run again."""
    record, started = OUTPUT / f"calls-{package}.json", time.time()
    known: Calls = json.loads(record.read_text()) if record.exists() else {}
    since = record.stat().st_mtime if record.exists() else 0.0
    paths = [path for path in (ROOT / "tests").rglob("*.py") if path.parent != Path(__file__).parent]
    changed = [path for path in paths if path.stat().st_mtime > since]
    files = TESTS[package]
    if all(path.name.startswith("test_") for path in changed):  # else something that many share has changed
        names = [str(path.relative_to(ROOT)) for path in changed]
        files = [name for name in names if name.startswith(tuple(files))]
    if files:
        kept = {name: test for name, test in known.items() if not name.startswith(tuple(files))}
        known = kept | recorded(package, files)
        record.write_text(json.dumps(known))
        os.utime(record, (started, started))
    return known


def chosen_tests(path: str, site: Site, known: Calls) -> list[str]:
    """The tests that could notice a change, in their order."""
    package, _, stem = path.rpartition("/")
    beside = f"tests/{package}/test_{Path(stem).stem}.py"
    order = []
    for name, (seconds, functions) in known.items():
        is_called = f"{path}:{site.function}" in functions
        if not site.function:  # code of the module itself
            is_called = any(one.startswith(f"{path}:") for one in functions)
        if is_called or (not site.function and name.startswith(beside)):
            order.append((not name.startswith(beside), seconds, name))
    tests, total = [], 0.0
    for _, seconds, name in sorted(order):
        if tests and total + seconds > SECONDS:
            break
        tests.append(name)
        total += seconds
    return tests


class _Only:
    """A plugin of pytest: these tests, in this order, without shrinking."""

    def __init__(self, tests: list[str]) -> None:
        self.order = {name: at for at, name in enumerate(tests)}

    def pytest_configure(self) -> None:
        phases = [phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)]
        settings.register_profile("mutation", settings.get_profile("simmap"), phases=phases, database=None)
        settings.load_profile("mutation")

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda i: self.order[i.nodeid])


def child(tree: Path, tests: list[str]) -> int:
    """Run tests in a copy; never returns to the caller's state."""
    os.setsid()
    os.chdir(tree)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(quiet, descriptor)
    types = str(tree / "build" / "types")
    sys.path.insert(0, types)
    os.environ["PYTHONPATH"] = types
    files = sorted({name.partition("::")[0] for name in tests})
    options = ["-q", "-x", "--no-header", "--tb=no", "-p", "no:xdist", "-p", "no:cacheprovider"]
    return int(pytest.main([*options, f"--basetemp={tree}-tmp", *files], plugins=[_Only(tests)]))


def outcome(tree: Path, tests: list[str]) -> str:
    """What becomes of a mutant."""
    if not tests:
        return UNTESTED
    process = os.fork()
    if not process:
        code = 3
        try:
            code = child(tree, tests)
        finally:
            os._exit(code)
    end = time.monotonic() + HANGS
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return {0: SURVIVED, pytest.ExitCode.NO_TESTS_COLLECTED: UNTESTED}.get(code, "noticed")
        time.sleep(0.02)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "hung"


def compile_tests(tree: Path, package: str) -> None:
    """Leave bytecode in a copy, half of the time of a short test; mutants read it and write none."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "build" / "types")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider"]
    subprocess.run([*command, *TESTS[package]], cwd=tree, env=environment, capture_output=True, check=False)


def work(slot: int, package: str, jobs: list[tuple[str, int, list[str]]], log: Path) -> None:
    """Try mutants one after the other."""
    tree = copied(f"copy-{log.stem}-{slot}")
    compile_tests(tree, package)
    for path, number, tests in jobs:
        source = (tree / path).read_text()
        site = sites(source)[number]
        (tree / path).write_text(mutant(source, number))
        started = time.monotonic()
        what = outcome(tree, tests)
        (tree / path).write_text(source)
        seconds = round(time.monotonic() - started, 1)
        with log.open("a") as stream:
            stream.write(json.dumps([path, site.line, site.change, what, seconds, len(tests)]) + "\n")


def main() -> int:
    """Sample, try, and print the changes that nothing noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", choices=list(TESTS))
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", nargs="*", help="only these, for example engine/places.py")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    # Tests of interrupts inherit this; a shell has what it puts into the background ignore them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    known = calls_of_tests(arguments.package)
    names = arguments.files or sorted(
        str(p.relative_to(ROOT)) for p in (ROOT / arguments.package).rglob("*.py")
    )
    every = [(name, at, site) for name in names for at, site in enumerate(sites((ROOT / name).read_text()))]
    draw = random.Random(arguments.seed)
    drawn = draw.sample(every, min(arguments.count, len(every)))
    jobs = [(name, at, chosen_tests(name, site, known)) for name, at, site in drawn]
    os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")  # the first is read at an import
    for library in LIBRARIES[arguments.package]:
        import_module(library)
    sys.dont_write_bytecode = True
    log = OUTPUT / f"{arguments.package}-{arguments.seed}.jsonl"
    log.unlink(missing_ok=True)
    context = get_context("fork")
    slots = range(arguments.processes)
    package = arguments.package
    workers = [context.Process(target=work, args=(s, package, jobs[s :: len(slots)], log)) for s in slots]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    counts: dict[str, list[str]] = defaultdict(list)
    for line in log.read_text().splitlines():
        name, at, change, what, *_ = json.loads(line)
        counts[what].append(f"{name}:{at}: {change}")
    for what in sorted(set(counts) - {"noticed"}):
        print(what, *sorted(counts[what]), sep="\n  ")
    total, missed = len(drawn), len(counts[SURVIVED]) + len(counts[UNTESTED])
    print(f"{arguments.package}: of {len(every)} changes {total} were tried, {total - missed} noticed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
