"""The commands of ``simmap``: one file each, its options beside its function."""
