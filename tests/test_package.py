"""What a release holds: every file of the package, the bundled model among them."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheel_and_sdist_hold_every_file_of_the_package_with_its_assets(tmp_path: Path) -> None:
    # Straight through the build backend: `python -m build` would fetch hatchling.
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    files = (path for path in (REPOSITORY / "pyramid_tokenizer").rglob("*") if path.is_file())
    expected = {str(path.relative_to(REPOSITORY)) for path in files if "__pycache__" not in path.parts}
    assert any("/assets/" in name for name in expected)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("pyramid_tokenizer/")}
    assert packed == expected
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sdist:
        unpacked = {name.partition("/")[2] for name in sdist.getnames()}
    assert expected | {"LICENSE", "README.md", "Makefile", "tests/test_package.py"} <= unpacked
