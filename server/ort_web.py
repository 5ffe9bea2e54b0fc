"""The pinned files of onnxruntime-web, from npm or from a folder, each checked by its hash."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from simmap.engine.errors import ConfigError, printable
from simmap.engine.files import write_bytes
from simmap.engine.runtime.cache import cache_folder

VERSION = "1.30.0"


@dataclass(frozen=True)
class Build:
    """The files of one build: what the page imports, what that loads, and the WebAssembly."""

    script: str
    loader: str
    wasm: str

    @property
    def names(self) -> tuple[str, str, str]:
        """All three."""
        return self.script, self.loader, self.wasm


CPU = Build("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
# Twice as large; it has the CPU's operators too.
WEBGPU = Build(
    "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"
)
HASHES = {  # sha256
    CPU.script: "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    CPU.loader: "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    CPU.wasm: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    WEBGPU.script: "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    WEBGPU.loader: "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    WEBGPU.wasm: "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
PACKAGE = f"onnxruntime-web@{VERSION}"
TIMEOUT = 300.0  # seconds for a package of 33 MB
_OFFLINE = f"give the folder of its files with --ort (npm pack {PACKAGE})"


def from_folder(folder: Path, builds: Sequence[Build] = (CPU,)) -> dict[str, bytes]:
    """The files of builds by name, from a folder that holds them, or from the ``dist`` folder in it.

    Raises:
        ConfigError: a file is missing, or of another version.
    """
    places = [folder, folder / "dist", folder / "package" / "dist"]
    found = next((place for place in places if (place / CPU.script).is_file()), folder)
    files = {}
    for name in _names(builds):
        path = found / name
        try:
            files[name] = path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{printable(str(path))}: cannot be read ({error.strerror}); give --ort the folder of "
                f"onnxruntime-web {VERSION} (npm pack {PACKAGE})"
            ) from None
        if not _is_right(name, files[name]):
            raise ConfigError(
                f"{printable(str(path))}: is not that of onnxruntime-web {VERSION}; "
                f"get it with: npm pack {PACKAGE}"
            )
    return files


def from_npm(builds: Sequence[Build] = (CPU,)) -> dict[str, bytes]:
    """The files of builds by name, from the user's cache, else fetched by the npm client and kept there.

    Raises:
        ConfigError: there is no npm, it cannot fetch the package, or the package holds something else.
    """
    cache = cache_folder()
    kept = None if cache is None else cache / f"onnxruntime-web-{VERSION}"
    if kept is not None:
        with suppress(ConfigError):
            return from_folder(kept, builds)
    with tempfile.TemporaryDirectory() as folder:
        files = _unpack(_fetch(Path(folder)), _names(builds))
    if kept is not None:
        with suppress(OSError):
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, data in files.items():
                write_bytes(kept / name, data, force=True)
    return files


def _fetch(folder: Path) -> Path:
    """The package as npm's client puts it into ``folder``, from the registry that the user has set up."""
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(f"no npm to fetch {PACKAGE} with: install Node.js, or {_OFFLINE}")
    command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, cwd=folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"npm cannot fetch {PACKAGE} ({error}); try again, or {_OFFLINE}") from None
    found = next(folder.glob("*.tgz"), None)
    if done.returncode != 0 or found is None:
        raise ConfigError(
            f"npm cannot fetch {PACKAGE} (exit code {done.returncode}); try again, or {_OFFLINE}"
        )
    return found


def _unpack(archive: Path, names: Iterable[str]) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(archive, mode="r:gz") as opened:
            for name in names:
                member = opened.extractfile(f"package/dist/{name}")
                files[name] = b"" if member is None else member.read()
    except (tarfile.TarError, EOFError, OSError, KeyError) as error:
        raise ConfigError(f"{PACKAGE}: is not the package that it should be ({error}); {_OFFLINE}") from None
    for name, data in files.items():
        if not _is_right(name, data):
            raise ConfigError(f"{PACKAGE}: its {name} has another checksum than it should; {_OFFLINE}")
    return files


def _names(builds: Iterable[Build]) -> list[str]:
    return [name for build in builds for name in build.names]


def _is_right(name: str, data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == HASHES[name]
