"""``simmap index info``: what is in an index."""

from .command import command as make_command
from .index_parameters import index_argument


@make_command("info", "simmap index info photos.index")
@index_argument
def command(index_folder: str, as_json: bool) -> None:
    """What is in an index: its model, its images, and how many of each label."""
    from collections import Counter

    from simmap.engine.index.embedded import Index

    from .report import print_facts, print_json, print_line, print_table

    index = Index(index_folder)
    entries = index.entries()
    labels = Counter(entry.label for entry in entries if entry.label is not None)
    size = sum(path.stat().st_size for path in index.path.iterdir())
    if as_json:
        print_json(
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
    print_facts(
        [
            ("index", str(index.path)),
            ("images", f"{len(entries)}, {len(entries) - labels.total()} of them without a label"),
            ("root", index.root),
            ("model", index.model),
            ("fingerprint", index.fingerprint),
            ("vectors", f"{index.dimension} features, {size / 1e6:.1f} MB in all"),
            ("labels", str(len(labels))),
        ]
    )
    if labels:
        print_line("")
        print_table(("images", "label"), [(count, label) for label, count in sorted(labels.items())])
