"""``simmap index info``: what is in an index."""

from .shared.command import command as make_command
from .shared.index_parameters import index_argument


@make_command("info", "simmap index info photos.index")
@index_argument
def command(index_name: str, as_json: bool) -> None:
    """What is in an index: its model, its images, and how many of each label."""
    from simmap.engine.index.opening import open_index

    from .shared.report import print_facts, print_json, print_line, print_table

    index = open_index(index_name)
    labels = index.labels()
    images, unlabelled = sum(labels.values()), labels.pop(None, 0)
    size = index.size()
    if as_json:
        print_json(
            {
                "index": index.name,
                "images": images,
                "root": index.root,
                "model": index.model,
                "fingerprint": index.fingerprint,
                "dimension": index.dimension,
                "bytes": size,
                "labels": labels,
                "paths": [index.path_of(entry.id) for entry in index.entries()],
            }
        )
        return
    print_facts(
        [
            ("index", index.name),
            ("images", f"{images}, {unlabelled} of them without a label"),
            ("root", index.root),
            ("model", index.model),
            ("fingerprint", index.fingerprint),
            ("vectors", f"{index.dimension} features, {size / 1e6:.1f} MB in all"),
            ("labels", str(len(labels))),
        ]
    )
    if labels:
        print_line("")
        print_table(("images", "label"), [(count, label) for label, count in labels.items()])
