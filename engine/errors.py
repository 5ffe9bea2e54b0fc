"""The errors of simmap: one base class, one line each, naming the file or field and the mend."""


def printable(name: str) -> str:
    """``name`` on one line: line breaks and undecodable bytes would spoil an error or a table."""
    return name if name.isprintable() and name else repr(name)


class SimmapError(Exception):
    """A failure that its reader can mend; ``str(error)`` is one line that says how."""


class ImageError(SimmapError):
    """An image that cannot be read, decoded or embedded."""


class StorageError(ImageError):
    """An image whose storage cannot be reached: nothing is known of the image itself."""


class ArtifactError(SimmapError):
    """A model file that is not a simmap artifact, is damaged, or does not do what its contract says."""


class PairGraphError(ArtifactError):
    """A pair graph where an artifact is needed."""


class DeviceError(SimmapError):
    """A device, or ONNX Runtime itself, that is unavailable."""


class ConfigError(SimmapError):
    """A YAML file, option or argument with an unknown key, a wrong type or an invalid value."""


class OutputError(SimmapError):
    """An output that cannot be written, or that would overwrite something."""


class StoreError(SimmapError):
    """An index that is missing, damaged, in use, or made by another model."""


class ClusterError(SimmapError):
    """A Ray cluster that cannot be reached, or whose nodes cannot do their work."""


class DecompositionError(SimmapError, ValueError):
    """Arrays that have no similarity map: wrong shapes, a zero vector, NaN or infinity."""


class ExportError(SimmapError):
    """A network that cannot become an artifact, or whose artifact failed its gate."""
