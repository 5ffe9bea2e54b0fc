"""The command line: one thin function a command, heavy imports inside it.

Exit codes: 0 done; 2 wrong usage; 1 anything else, with one line on stderr that names the file or
field and the mend (``--debug`` for the traceback).
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from simmap.engine.errors import SimmapError, printable

if TYPE_CHECKING:
    from simmap.engine.engine import Engine
    from simmap.engine.index.embedded import Index
    from simmap.engine.index.update import Update

DEFAULT_PICTURE = "similarity.png"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    arguments = _parser().parse_args(argv)
    # A path may hold what the terminal cannot show; that must not cost the results.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # OpenCV's own warnings would stand beside our one line.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        arguments.command(arguments)
        sys.stdout.flush()
    except SimmapError as error:
        return _fail(error, str(error), arguments.debug)
    except KeyboardInterrupt as error:
        return _fail(error, "interrupted", arguments.debug)
    except BrokenPipeError:
        # The reader of our output has gone (`simmap ... | head`); nothing is wrong here.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError as error:
        return _fail(error, "out of memory; use a smaller image, batch or model", arguments.debug)
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(error, f"unexpected {told}; run again with --debug and report it", arguments.debug)
    return 0


def _fail(error: BaseException, line: str, debug: bool) -> int:
    if debug:
        raise error
    print(f"simmap: {' '.join(line.split())}", file=sys.stderr)
    return 1


def compare(arguments: argparse.Namespace) -> None:
    """``simmap compare``: the score of two images and the picture of where it comes from."""
    from simmap.engine.figures.pair import PairFigure
    from simmap.engine.files import check_output

    picture = _picture(arguments)
    maps = None if arguments.maps is None else check_output(arguments.maps, force=arguments.force)
    engine = _engine(arguments)
    pair = engine.compare(arguments.first, arguments.second)
    cell = None
    if arguments.point is not None:
        grid_height, grid_width = pair.images[0].parts.shape[:2]
        x, y = arguments.point
        cell = pair.images[0].geometry.cell_at(x, y, grid_height, grid_width)
    figure = PairFigure(pair, cell, engine.options)
    figure.save(picture, force=arguments.force)
    if maps is not None:
        _save_maps(pair, maps, cell, force=arguments.force)
    if arguments.json:
        report: dict[str, Any] = {
            **figure.data(),
            "model": str(engine.model),
            "fingerprint": engine.contract.fingerprint,
            "device": engine.device,
            "picture": str(picture),
        }
        if cell is not None:
            report["point"] |= {"x": arguments.point[0], "y": arguments.point[1]}
        _print_json(report)
        return
    print(f"cosine similarity  {pair.score:.4f}")
    if any(pair.residuals):
        print("of it by no place  " + ", ".join(f"{value:.4f}" for value in pair.residuals))
    print(f"model              {engine.model.name} on {engine.device}")
    print(f"picture            {picture}")
    if maps is not None:
        print(f"maps               {maps}")


def _save_maps(pair: Any, path: Path, cell: tuple[int, int] | None, *, force: bool) -> None:
    """Write both maps, the score and the residuals to a NumPy archive."""
    import numpy as np

    from simmap.engine.files import replacing

    arrays = {"map_0": pair.maps[0], "map_1": pair.maps[1], "score": pair.score, "residuals": pair.residuals}
    if cell is not None:
        arrays["point"] = pair.point(0, *cell)
    with replacing(path, force=force) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def index_build(arguments: argparse.Namespace) -> None:
    """``simmap index build``: an index of a folder, made or brought up to date."""
    from simmap.engine.dataset import find_images
    from simmap.engine.index.embedded import Index
    from simmap.engine.index.update import update_index

    items = find_images(arguments.folder, arguments.labels)
    engine = _engine(arguments)
    index = Index.create(arguments.output, engine, arguments.folder)
    with _progress("images") as tell:
        done = update_index(index, engine, items, prune=True, strict=arguments.strict, on_progress=tell)
    _report_update(arguments, index, done)


def index_add(arguments: argparse.Namespace) -> None:
    """``simmap index add``: more images, or changed ones."""
    from simmap.engine.dataset import Item, find_images
    from simmap.engine.index.embedded import Index
    from simmap.engine.index.update import update_index

    index = Index(arguments.index)
    items = []
    for path in map(Path, arguments.paths):
        items += find_images(path, arguments.labels) if path.is_dir() else [Item(str(path), arguments.label)]
    if arguments.label is not None:
        items = [Item(item.path, arguments.label) for item in items]
    engine = _engine(arguments, index)
    with _progress("images") as tell:
        done = update_index(index, engine, items, strict=arguments.strict, on_progress=tell)
    _report_update(arguments, index, done)


def index_remove(arguments: argparse.Namespace) -> None:
    """``simmap index remove``: images, by their files or folders, which need not exist any more."""
    from simmap.engine.errors import StoreError
    from simmap.engine.index.embedded import Index

    index = Index(arguments.index)
    known = [entry.id for entry in index.entries()]
    chosen: set[str] = set()
    for path in arguments.paths:
        name = index.id_of(path)
        found = {one for one in known if one == name or Path(one).is_relative_to(name)}
        if not found:
            raise StoreError(f"{arguments.index}: has no image {path}; see its paths with: simmap index info")
        chosen |= found
    removed = index.delete(sorted(chosen))
    if arguments.json:
        _print_json({"index": str(index.path), "images": len(index), "removed": removed})
        return
    print(f"{index.path}: {removed} removed, {len(index)} images")


def index_info(arguments: argparse.Namespace) -> None:
    """``simmap index info``: what is in an index."""
    from collections import Counter

    from simmap.engine.index.embedded import Index

    index = Index(arguments.index)
    entries = index.entries()
    labels = Counter(entry.label for entry in entries if entry.label is not None)
    size = sum(path.stat().st_size for path in index.path.iterdir())
    if arguments.json:
        _print_json(
            {
                "index": str(index.path),
                "images": len(entries),
                "root": index.root,
                "model": index.model,
                "fingerprint": index.fingerprint,
                "dimension": index.dimension,
                "bytes": size,
                "labels": dict(sorted(labels.items())),
                "paths": [index.path_of(entry.id) for entry in entries],
            }
        )
        return
    rows = [
        ("index", str(index.path)),
        ("images", f"{len(entries)}, {len(entries) - labels.total()} of them without a label"),
        ("root", index.root),
        ("model", index.model),
        ("fingerprint", index.fingerprint),
        ("vectors", f"{index.dimension} features, {size / 1e6:.1f} MB in all"),
        ("labels", f"{len(labels)}"),
    ]
    for name, value in rows:
        print(f"{name:12} {value}")
    for label, count in sorted(labels.items()):
        print(f"{'':12} {count:6} {printable(label)}")


def _report_update(arguments: argparse.Namespace, index: "Index", done: "Update") -> None:
    for _, told in done.skipped:
        print(f"simmap: skipped {told}", file=sys.stderr)
    if arguments.json:
        _print_json(
            {
                "index": str(index.path),
                "images": len(index),
                "added": done.added,
                "kept": done.kept,
                "removed": done.removed,
                "skipped": [{"path": path, "error": told} for path, told in done.skipped],
            }
        )
        return
    counts = f"{done.added} added, {done.kept} kept, {done.removed} removed, {len(done.skipped)} skipped"
    print(f"{index.path}: {counts}; {len(index)} images")


def search(arguments: argparse.Namespace) -> None:
    """``simmap search``: the most similar images of an index, and where the similarity comes from."""
    from functools import partial

    from simmap.engine.figures.found import SearchFigure
    from simmap.engine.images.region import load_mask
    from simmap.engine.index.embedded import Index
    from simmap.engine.index.explain import explain
    from simmap.engine.index.search import read_embeddings, search_embeddings
    from simmap.engine.index.search import search as run

    region = bool(arguments.region) or arguments.mask is not None
    if not arguments.queries and arguments.embedding is None:
        arguments.usage("give an image to search for, or --embedding")
    if region and (len(arguments.queries) != 1 or arguments.embedding is not None):
        arguments.usage("--region and --mask need one image to search for")
    if arguments.compare_whole and not region:
        arguments.usage("--compare-whole needs --region or --mask")
    picture = None if arguments.output is None else _picture(arguments)
    index = Index(arguments.index)
    mask = None if arguments.mask is None else load_mask(arguments.mask)
    engine = _engine(arguments, index)
    k, per_class, exclude_self = arguments.k, arguments.per_class, arguments.exclude_self
    asked = partial(run, engine, index, arguments.queries, k, per_class=per_class, exclude_self=exclude_self)
    found = asked(boxes=arguments.region, mask=mask) if arguments.queries else []
    if arguments.embedding is not None:
        embeddings = read_embeddings(arguments.embedding)
        index.check_model(engine)
        found += search_embeddings(index, embeddings, k, per_class=per_class, name=arguments.embedding)
    whole = asked() if arguments.compare_whole else []
    if picture is not None:
        SearchFigure(explain(engine, [*whole, *found]), options=engine.options).save(
            picture, force=arguments.force
        )
    if arguments.json:
        reports = SearchFigure(found).data()["queries"]
        for report, one in zip(reports, SearchFigure(whole).data()["queries"], strict=False):
            report["whole_image_results"] = one["results"]
        _print_json(reports if len(reports) > 1 else reports[0])
        return
    for one in [*whole, *found]:
        print(f"query {printable(one.name)}{'' if one.weights is None else ', ranked by the region'}")
        for hit in one.hits:
            part = "" if hit.region_score is None else f"{hit.region_score:8.4f}"
            print(f"{hit.rank:4} {hit.score:8.4f} {part} {printable(hit.path)}")
    if picture is not None:
        print(f"picture {picture}")


def class_(arguments: argparse.Namespace) -> None:
    """``simmap class``: what the images of a class have in common."""
    from simmap.engine.analysis.classes import class_maps
    from simmap.engine.dataset import find_images
    from simmap.engine.errors import StoreError
    from simmap.engine.figures.classes import ClassFigure
    from simmap.engine.index.embedded import Index

    if (arguments.folder is None) == (arguments.label is None):
        arguments.usage("give a folder of one class, or --index and --label")
    if (arguments.label is not None or arguments.rest) != (arguments.index is not None):
        arguments.usage("--index goes with --label or --rest")
    picture = _picture(arguments)
    index = None if arguments.index is None else Index(arguments.index)
    entries = [] if index is None else index.entries()
    if arguments.label is None:
        members = [item.path for item in find_images(arguments.folder)]
        name = Path(arguments.folder).resolve().name
    else:
        assert index is not None
        members = [index.path_of(entry.id) for entry in entries if entry.label == arguments.label]
        name = arguments.label
        if not members:
            raise StoreError(f"{index.path}: has no label {name!r}; see: simmap index info {index.path}")
    engine = _engine(arguments, index)
    outside = None
    if arguments.rest:
        assert index is not None
        index.check_model(engine)
        inside = {index.id_of(path) for path in members}
        _, outside = index.get([entry.id for entry in entries if entry.id not in inside])
    maps = class_maps(engine, members, outside=outside)
    against = ", less what they share with the rest" if arguments.rest else ""
    figure = ClassFigure(maps, f"{name}: what {len(members)} images share{against}", engine.options)
    figure.save(picture, force=arguments.force)
    if arguments.json:
        _print_json({"class": name, **figure.data(), "picture": str(picture)})
        return
    for image in figure.data()["images"]:
        print(f"{image['cohesion']:8.4f} {printable(image['path'])}")
    print(f"picture {picture}")


def contrast(arguments: argparse.Namespace) -> None:
    """``simmap contrast``: one query under several models."""
    from simmap.engine.analysis.contrast import contrast as run
    from simmap.engine.dataset import find_images
    from simmap.engine.figures.contrast import ContrastFigure

    # `--models A B QUERY IMAGE`: argparse gives the images to --models too.
    models = [name for name in arguments.models if name.lower().endswith(".onnx")]
    images = [*arguments.images, *(name for name in arguments.models if name not in models)]
    if not models or not images:
        arguments.usage("give --models A.onnx B.onnx ... and a query image")
    if (len(images) > 1) == (arguments.index_folder is not None):
        arguments.usage("give images to compare the query with, or --index-folder FOLDER")
    names = None
    if arguments.steps is not None:
        names = [f"step {step.strip()}" for step in arguments.steps.split(",")]
    picture = _picture(arguments)
    labels, k = None, None
    candidates = images[1:]
    if arguments.index_folder is not None:
        items = find_images(arguments.index_folder, arguments.labels)
        candidates, k = [item.path for item in items], arguments.k
        if any(item.label is not None for item in items):
            labels = [item.label for item in items]
    engines = [_engine(arguments, model=model) for model in models]
    result = run(engines, images[0], candidates, names=names, labels=labels, k=k)
    figure = ContrastFigure(result, engines[0].options)
    figure.save(picture, force=arguments.force)
    if arguments.json:
        _print_json({**figure.data(), "picture": str(picture)})
        return
    for row in result.rows:
        recall = "" if row.recall_at_1 is None else f"  recall@1 {row.recall_at_1:.4f}"
        same = "" if row.correlation is None else f"  maps correlate {row.correlation:.4f} with the row above"
        print(f"{row.name}{recall}{same}")
        for candidate in row.candidates:
            print(f"{candidate.score:8.4f} {printable(candidate.image.path)}")
    print(f"picture {picture}")


def contribution(arguments: argparse.Namespace) -> None:
    """``simmap contribution``: how many features make a score."""
    from simmap.engine.analysis.contribution import MARKED, contribution_curve
    from simmap.engine.dataset import find_images, read_pairs, sample_pairs
    from simmap.engine.figures.contribution import ContributionFigure
    from simmap.engine.figures.curve import check_curve

    if (arguments.pairs_file is None) == (arguments.folder is None):
        arguments.usage("give PAIRS.csv or --folder")
    picture = check_curve(arguments.output, force=arguments.force)
    if arguments.folder is None:
        pairs = read_pairs(arguments.pairs_file)
    else:
        items = find_images(arguments.folder, arguments.labels)
        pairs = sample_pairs(items, arguments.pairs, seed=arguments.seed)
    curve = contribution_curve(_engine(arguments), pairs)
    figure = ContributionFigure(curve)
    figure.save(picture, force=arguments.force)
    if arguments.json:
        _print_json({**figure.data(), "picture": str(picture)})
        return
    k = min(MARKED, len(curve.mean))
    low, high = curve.low[k - 1], curve.high[k - 1]
    print(f"pairs              {len(curve.pairs)}, mean score {curve.scores.mean():.4f}")
    if curve.left_out:
        print(f"left out           {curve.left_out} pairs of hardly any similarity")
    print(f"{k} of {len(curve.mean)} features give {curve.mean[k - 1]:.1%} of the score")
    print(f"80% of the pairs   between {low:.1%} and {high:.1%}")
    print(f"picture            {picture}")


def evaluate(arguments: argparse.Namespace) -> None:
    """``simmap evaluate``: retrieval, agreement of two models, faithfulness of the maps."""
    import numpy as np

    from simmap.engine.analysis.agreement import agreement
    from simmap.engine.analysis.faithfulness import faithfulness
    from simmap.engine.analysis.retrieval import retrieval
    from simmap.engine.dataset import find_images, sample_pairs
    from simmap.engine.figures.curve import check_curve
    from simmap.engine.figures.faithfulness import FaithfulnessFigure

    if (arguments.output is not None) > arguments.faithfulness:
        arguments.usage("-o is the curve of --faithfulness")
    picture = None
    if arguments.output is not None:
        picture = check_curve(arguments.output, force=arguments.force)
    items = find_images(arguments.folder, arguments.labels)
    paths, labels = [item.path for item in items], [item.label for item in items]
    engine = _engine(arguments)
    engines = [engine]
    if arguments.against is not None:
        engines.append(_engine(arguments, model=arguments.against))
    report: dict[str, Any] = {"folder": str(arguments.folder), "models": []}
    embeddings = []
    for one in engines:
        vectors = []
        with _progress("images") as tell:
            for vector in one.vectors(paths):
                vectors.append(vector.embedding)
                tell(len(vectors), len(paths))
        embeddings.append(np.array(vectors))
        figures = retrieval(embeddings[-1], labels).data()
        report["models"].append({"model": str(one.model), "device": one.device, **figures})
    if arguments.against is not None:
        compared = agreement(
            engine, engines[1], paths, embeddings=embeddings, pairs=arguments.pairs, seed=arguments.seed
        )
        report["agreement"] = compared.data()
    if arguments.faithfulness:
        pairs = sample_pairs(items, arguments.pairs, seed=arguments.seed)
        with _progress("pairs") as tell:
            curves = faithfulness(engine, pairs, seed=arguments.seed, on_progress=tell)
        figure = FaithfulnessFigure(curves)
        report["faithfulness"] = figure.data()
        if picture is not None:
            figure.save(picture, force=arguments.force)
            report["picture"] = str(picture)
    if arguments.json:
        _print_json(report)
        return
    for one in report["models"]:
        print(f"{one['model']}: {one['queries']} queries of {one['classes']} classes, {one['images']} images")
        for name in ("recall_at_1", "recall_at_5", "map_at_r"):
            print(f"  {name:32} {one[name]:.4f}")
    for name, value in report.get("agreement", {}).items():
        print(f"  {name:32} {value:.6g}")
    for kind in ("deletion", "insertion") if arguments.faithfulness else ():
        for order in ("map", "norm", "random"):
            area = report["faithfulness"][kind][order]
            print(f"  {kind} area, {order:20} {area['area']:.4f} +- {area['standard_deviation']:.4f}")
    if picture is not None:
        print(f"picture {picture}")


def inspect(arguments: argparse.Namespace) -> None:
    """``simmap inspect``: the whole contract of an artifact."""
    from dataclasses import asdict

    from simmap.engine.runtime.session import open_session

    session = open_session(arguments.model, device="cpu", threads=1)
    contract = session.contract
    if arguments.json:
        data = asdict(contract)
        data.pop("bias")
        _print_json({"model": str(session.path), **data, "has_bias": contract.bias is not None})
        return
    spec = contract.input
    size = f"{spec.height} x {spec.width}" + (" by default, any other too" if spec.dynamic else "")
    crop = f", {spec.crop_fraction:g} of the shorter side" if spec.resize == "crop" else ""
    exponent = f", p = {contract.p:g}" if contract.p is not None else ""
    head = contract.head + (" with a bias" if contract.bias else "")
    if contract.rest == "image":
        head += ", what no place owns depends on the image"
    if contract.reference != "zero":
        head += f", parts counted from those of {contract.reference}"
    rows = [
        ("artifact", str(session.path)),
        ("source", ", ".join(f"{key} {value}" for key, value in contract.source.items())),
        ("input", f"uint8 {spec.colour.upper()}, {size} (height x width)"),
        ("resize", f"{spec.resize}{crop}, kernel {spec.kernel}"),
        ("mean", ", ".join(f"{v:g}" for v in spec.mean) + " (in the graph)"),
        ("std", ", ".join(f"{v:g}" for v in spec.std) + " (in the graph)"),
        ("feature map", f"{contract.channels} x {contract.grid_height} x {contract.grid_width} (C x H x W)"),
        ("pooling", contract.pooling + exponent),
        ("head", head),
        ("embedding", f"{contract.dimension} features"),
        ("precision", contract.precision),
        ("outputs", ", ".join(contract.outputs)),
        ("fingerprint", contract.fingerprint),
        ("made with", ", ".join(f"{key} {value}" for key, value in contract.versions.items())),
    ]
    for name, value in rows:
        print(f"{name:12} {value}")
    for name, value in contract.fidelity.items():
        if not isinstance(value, dict):
            print(f"{'fidelity':12} {name.replace('_', ' ')} {value:.4g}")
    for name, figures in contract.parity.items():
        if name == "rest":
            print(f"{'rest':12} {figures['share']:.0%} of a photo's similarity with itself, on real photos")
            continue
        print(f"{'parity':12} {name}: at most {figures['absolute']:.2e}, relative {figures['relative']:.2e}")


def export(arguments: argparse.Namespace) -> None:
    """``simmap export``: a trained network to an artifact, through the gate."""
    from simmap.engine.errors import ExportError
    from simmap.export.recipe import load_recipe

    names = (
        "torchvision", "timm", "module", "onnx", "weights", "pool", "p", "conv_layer", "embedding", "grid",
        "size", "dynamic", "mean", "std", "colour", "resize", "kernel", "crop_fraction", "precision",
        "calibrate",
    )  # fmt: skip
    flags = {name: getattr(arguments, name) for name in names}
    # Before the heavy imports: a mistake in a recipe is told at once.
    recipe = load_recipe(None if arguments.recipe is None else Path(arguments.recipe), flags)
    try:
        from simmap.export.exporter import export as run
    except ImportError as error:
        raise ExportError(f"{error}; export needs more packages: pip install 'simmap[export]'") from error
    report = run(
        recipe,
        arguments.output,
        force=arguments.force,
        progress=lambda line: print(f"- {line}", file=sys.stderr),
    )
    if arguments.json:
        from dataclasses import asdict

        contract = asdict(report.contract)
        contract.pop("bias")
        checks = [{**asdict(check), "passed": check.passed} for check in report.checks]
        _print_json(
            {
                "path": str(report.path),
                "bytes": report.size,
                "nodes": report.nodes,
                "contract": contract,
                "checks": checks,
                "notes": list(report.notes),
            }
        )
        return
    print(f"{'output':24} {'images':16} {'batch':>5} {'absolute':>10} {'relative':>10} {'tolerance':>10}")
    for check in report.checks:
        print(
            f"{check.name:24} {check.images:16} {check.batch:>5} {check.absolute:>10.2e} "
            f"{check.relative:>10.2e} {check.tolerance:>10.0e}"
        )
    fidelity = {k: v for k, v in report.contract.fidelity.items() if not isinstance(v, dict)}
    for name, value in fidelity.items():
        print(f"int8 against fp32: {name.replace('_', ' ')} {value:.4g}")
    for note in report.notes:
        print(f"note: {note}")
    print(f"{report.path}: {report.size / 1e6:.1f} MB, {report.nodes} nodes")


def _engine(
    arguments: argparse.Namespace, index: "Index | None" = None, *, model: str | None = None
) -> "Engine":
    """The engine that the options ask for; by default with the model that made the index.

    ``model`` stands in for --model where a command takes several.
    """
    from simmap.engine.engine import Engine
    from simmap.engine.options import Options, load_options

    given: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in ("model", "device", "fast_decode")
        if getattr(arguments, name, None) is not None
    }
    if model is not None:
        given["model"] = model
    if arguments.config is not None:
        return Engine(options=load_options(arguments.config, **given))
    if index is not None and Path(index.model).is_file():
        given.setdefault("model", index.model)
    return Engine(options=Options(**given))


def _picture(arguments: argparse.Namespace) -> Path:
    """The picture to write, refused before any work is done for it if it cannot be."""
    from simmap.engine.figures.files import check_format
    from simmap.engine.files import check_output

    picture = check_output(arguments.output, force=arguments.force)
    check_format(picture)
    return picture


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, on a terminal only."""
    printable = sys.stderr.isatty()

    def tell(done: int, total: int) -> None:
        if printable:
            bar = "#" * (30 * done // max(total, 1))
            print(f"\r[{bar:30}] {done} of {total} {what}", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if printable:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _print_json(data: Any) -> None:
    # ensure_ascii stays on: a terminal's encoding must not break a report with names in any script.
    print(json.dumps(data, indent=2))


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where the help is."""
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


class _Version(argparse.Action):
    """Look the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and stop")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print ``simmap X.Y.Z``."""
        print(f"simmap {metadata.version('simmap')}")
        raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="simmap",
        description="Which regions make two images similar: exact similarity maps of embedding networks.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_compare(commands)
    _add_index(commands)
    _add_search(commands)
    _add_class(commands)
    _add_contrast(commands)
    _add_contribution(commands)
    _add_evaluate(commands)
    _add_inspect(commands)
    _add_export(commands)
    return parser


def _add(commands: Any, function: Any, help_line: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        function.__name__.rstrip("_").rpartition("_")[2],
        help=help_line,
        description=help_line,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=function, usage=parser.error)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--json", action="store_true", help="report as JSON on stdout")
    return parser


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="artifact (.onnx); by default the one that ships")
    parser.add_argument("--device", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--config", help="YAML file of engine options, see configs/engine.yaml")


def _add_compare(commands: Any) -> None:
    parser = _add(
        commands,
        compare,
        "The cosine similarity of two images, and a picture of the regions that make it.",
        "simmap compare a.jpg b.jpg -o similarity.png",
    )
    parser.add_argument("first", metavar="A", help="image: JPEG, PNG, WebP, TIFF or BMP")
    parser.add_argument("second", metavar="B", help="image to compare it with")
    parser.add_argument(
        "-o", "--output", default=DEFAULT_PICTURE, help=f"picture to write (default: {DEFAULT_PICTURE})"
    )
    parser.add_argument("--maps", metavar="OUT.npz", help="also write the maps as a NumPy archive")
    parser.add_argument(
        "--point",
        type=_point,
        metavar="x,y",
        help="pixel of A: also show what its cell matches in B",
    )
    parser.add_argument("--force", action="store_true", help="overwrite outputs that exist")
    _add_engine_options(parser)


def _add_index(commands: Any) -> None:
    parser = commands.add_parser("index", help="Build and change an index of images to search in.")
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=_Parser)
    build = _add(
        actions,
        index_build,
        "Index a folder of images, or bring its index up to date; an interrupted build goes on.",
        "simmap index build photos -o photos.index",
    )
    build.add_argument("folder", metavar="FOLDER", help="images; the names of its sub-folders are labels")
    build.add_argument("-o", "--output", required=True, metavar="INDEX", help="folder of the index")
    add = _add(
        actions,
        index_add,
        "Add images to an index, or those of its images that have changed.",
        "simmap index add photos.index more_photos",
    )
    add.add_argument("index", metavar="INDEX", help="folder of the index")
    add.add_argument("paths", nargs="+", metavar="PATH", help="images, or folders as for build")
    add.add_argument("--label", help="class of all these images")
    for one in (build, add):
        _add_labels(one)
        one.add_argument(
            "--strict",
            action="store_true",
            help="stop at an image that cannot be read, instead of skipping it",
        )
        one.add_argument(
            "--fast-decode",
            action="store_true",
            default=None,
            help="decode large JPEG files at reduced size: faster, embeddings change a little",
        )
        _add_engine_options(one)
    remove = _add(
        actions,
        index_remove,
        "Remove images from an index; the files stay.",
        "simmap index remove photos.index photos/cat",
    )
    remove.add_argument("index", metavar="INDEX", help="folder of the index")
    remove.add_argument("paths", nargs="+", metavar="PATH", help="images or folders")
    info = _add(actions, index_info, "What is in an index.", "simmap index info photos.index")
    info.add_argument("index", metavar="INDEX", help="folder of the index")


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels", metavar="FILE.csv", help="columns path,label; by default sub-folders are labels"
    )


def _add_output(parser: argparse.ArgumentParser, what: str, *, required: bool) -> None:
    parser.add_argument("-o", "--output", required=required, help=what)
    parser.add_argument("--force", action="store_true", help="overwrite it if it exists")


def _add_search(commands: Any) -> None:
    parser = _add(
        commands,
        search,
        "The images of an index that are most similar to an image, or to a region of it.",
        "simmap search photos.index a.jpg -k 5 --region 40,60,200,150 -o results.png",
    )
    parser.add_argument("index", metavar="INDEX", help="folder of the index")
    parser.add_argument("queries", nargs="*", metavar="QUERY", help="images to search for")
    parser.add_argument(
        "--embedding", metavar="FILE.npy", help="search for the embeddings (D,) or (m, D) too"
    )
    parser.add_argument("-k", type=_count, default=3, help="how many results (default: 3)")
    parser.add_argument(
        "--region", type=_box, action="append", default=[], metavar="x,y,w,h",
        help="rank by this part of the query, in pixels of the photo; several add up",
    )  # fmt: skip
    parser.add_argument(
        "--mask", metavar="M.png", help="a region as an image of the query's size, white inside"
    )
    parser.add_argument("--compare-whole", action="store_true", help="show the whole image's results above")
    parser.add_argument(
        "--per-class", action="store_true", help="the best image of each of the k best classes"
    )
    parser.add_argument("--exclude-self", action="store_true", help="leave the query's own file out")
    _add_output(parser, "picture to write", required=False)
    _add_engine_options(parser)


def _add_class(commands: Any) -> None:
    parser = _add(
        commands,
        class_,
        "What the images of a class have in common: each under its mean map with the others.",
        "simmap class photos/cat -o cat.png",
    )
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="images of one class")
    parser.add_argument("--index", metavar="INDEX", help="index to take the members or the rest from")
    parser.add_argument("--label", help="class of the index")
    parser.add_argument(
        "--rest", action="store_true", help="take off what they share with the rest of the index"
    )
    _add_output(parser, "picture to write", required=True)
    _add_engine_options(parser)


def _add_contrast(commands: Any) -> None:
    parser = _add(
        commands,
        contrast,
        "One query under several models: checkpoints, poolings, training runs.",
        "simmap contrast --models avg.onnx max.onnx a.jpg b.jpg -o contrast.png",
    )
    parser.add_argument("--models", nargs="+", required=True, metavar="M.onnx", help="a row each, in order")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="the query, and images to compare it with")
    parser.add_argument(
        "--index-folder", metavar="FOLDER", help="each model shows its own best of these images"
    )
    parser.add_argument("-k", type=_count, default=3, help="how many of them (default: 3)")
    parser.add_argument(
        "--steps", metavar="0,1,3,...", help="training step of each model, for the rows' titles"
    )
    _add_labels(parser)
    _add_output(parser, "picture to write", required=True)
    parser.add_argument("--device", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--config", help="YAML file of engine options, see configs/engine.yaml")


def _add_contribution(commands: Any) -> None:
    parser = _add(
        commands,
        contribution,
        "How much of the score of similar images the largest features give.",
        "simmap contribution --folder photos --pairs 1000 -o curve.png",
    )
    parser.add_argument("pairs_file", nargs="?", metavar="PAIRS.csv", help="columns a,b: two images a line")
    parser.add_argument("--folder", metavar="FOLDER", help="sample pairs of one class from it instead")
    _add_sample(parser, 1000)
    _add_labels(parser)
    _add_output(parser, "curve to write: PNG, SVG or PDF", required=True)
    _add_engine_options(parser)


def _add_evaluate(commands: Any) -> None:
    parser = _add(
        commands,
        evaluate,
        "How well a model retrieves; whether another may take its place; whether its maps are true to it.",
        "simmap evaluate photos --model full.onnx --against small.onnx",
    )
    parser.add_argument("folder", metavar="FOLDER", help="labelled images: a sub-folder a class")
    parser.add_argument("--against", metavar="M.onnx", help="a model that may take the first one's place")
    parser.add_argument(
        "--faithfulness", action="store_true", help="blur and restore places in the order of the map"
    )
    _add_sample(parser, 50)
    _add_labels(parser)
    _add_output(parser, "curve of --faithfulness: PNG, SVG or PDF", required=False)
    _add_engine_options(parser)


def _add_sample(parser: argparse.ArgumentParser, count: int) -> None:
    parser.add_argument("--pairs", type=_count, default=count, help=f"pairs to sample (default: {count})")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")


def _add_inspect(commands: Any) -> None:
    parser = _add(
        commands,
        inspect,
        "What an artifact says of itself: input, pooling, head, source, parity.",
        "simmap inspect models/efficientnet_lite0.onnx",
    )
    parser.add_argument("model", metavar="MODEL", help="artifact (.onnx)")


def _add_export(commands: Any) -> None:
    parser = _add(
        commands,
        export,
        "Turn a trained network into an artifact; nothing is written that differs from its source.",
        "simmap export --timm resnet50 --weights resnet50.pth -o resnet50.onnx",
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE.yaml", help="recipe; flags win over it")
    source = parser.add_argument_group("source (one)")
    source.add_argument("--torchvision", metavar="NAME", help="torchvision architecture")
    source.add_argument("--timm", metavar="NAME", help="timm architecture")
    source.add_argument(
        "--module", metavar="PACKAGE.MODULE:FACTORY", help="function that returns a torch.nn.Module"
    )
    source.add_argument("--onnx", metavar="FILE", help="existing ONNX graph")
    parser.add_argument(
        "--weights", metavar="FILE", help="checkpoint: state dict, .safetensors, training checkpoint"
    )
    network = parser.add_argument_group("what to expose")
    network.add_argument(
        "--pool",
        choices=("avg", "max", "gem", "avgmax", "catavgmax"),
        help="pooling, instead of the network's own",
    )
    network.add_argument("--p", type=float, help="exponent of --pool gem (default: 3)")
    network.add_argument(
        "--conv-layer", metavar="NAME", help="feature map: a torch module, an ONNX tensor or node"
    )
    network.add_argument("--embedding", metavar="NAME", help="output, pooled, or an ONNX tensor to cut at")
    network.add_argument(
        "--grid", metavar="HxW", help="cells of a class token's patches, such as 7x7 (default: one a patch)"
    )
    network.add_argument(
        "--precision",
        choices=("fp32", "fp16", "fp16-cuda", "int8"),
        help="of the stored weights (default: fp32); fp16-cuda and int8 also compute in it",
    )
    network.add_argument(
        "--calibrate",
        metavar="FOLDER",
        help="photos for int8, like those of its use: a third calibrates, the others judge",
    )
    image = parser.add_argument_group("input")
    image.add_argument("--size", help="224, or HxW")
    image.add_argument(
        "--dynamic", action="store_true", default=None, help="accept other heights and widths too"
    )
    image.add_argument("--mean", type=_triple, metavar="r,g,b", help="of x / 255")
    image.add_argument("--std", type=_triple, metavar="r,g,b", help="of x / 255")
    image.add_argument("--colour", choices=("rgb", "bgr"), help="channel order of the network (default: rgb)")
    image.add_argument(
        "--resize", choices=("squash", "crop", "letterbox"), help="how a photo becomes the input"
    )
    image.add_argument("--kernel", choices=("area", "linear", "cubic"), help="resampling (default: area)")
    image.add_argument(
        "--crop-fraction", type=float, metavar="F", help="share of the shorter side that crop keeps"
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT.onnx", help="artifact to write")
    parser.add_argument("--force", action="store_true", help="overwrite it if it exists")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _point(text: str) -> tuple[float, float]:
    values = _numbers(text, 2, "x,y")
    return values[0], values[1]


def _box(text: str) -> tuple[float, float, float, float]:
    x, y, w, h = _numbers(text, 4, "x,y,w,h")
    return x, y, w, h


def _triple(text: str) -> tuple[float, float, float]:
    values = _numbers(text, 3, "r,g,b")
    return values[0], values[1], values[2]


def _numbers(text: str, count: int, form: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    return values


if __name__ == "__main__":
    sys.exit(main())
