"""``simmap index``: the group of what is done to an index."""

from .shared.group import LazyGroup

command = LazyGroup(
    "index",
    {
        "build": ("index_build", "Index a folder of images, or bring its index up to date."),
        "add": ("index_add", "Add images to an index, or those of its images that have changed."),
        "remove": ("index_remove", "Remove images from an index; the files stay."),
        "copy": ("index_copy", "Copy an index to another place or kind, and compare the two."),
        "check": ("index_check", "Verify that nothing in an index is damaged, and what a search finds."),
        "info": ("index_info", "What is in an index."),
    },
    "Build, change, copy and check an index of images to search in.",
)
