"""The shape of the code: imports go one way, and light things stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from tests.clippy.test_model import build, config

ROOT = Path(__file__).parent.parent
LAYERS = ["clippy", "pipelines", "tuning", "cluster"]
MODULES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, also inside functions."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            packages.add((node.module or "").partition(".")[0])
    return packages


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    above = set(LAYERS[layer + 1 :])
    assert not imported_packages(path) & (above | ({"ray", "mlflow"} if layer == 0 else set()))


def test_everything_is_packaged() -> None:
    """An editable install finds what a wheel would lack."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts) for layer in LAYERS for path in ROOT.glob(f"{layer}/**/*.py")
    }
    assert set(told["packages"]) == packages
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                patterns = told["package-data"].get(".".join(path.parent.relative_to(ROOT).parts), [])
                assert any(path.match(pattern) for pattern in patterns), f"{path} is in no package data"


def run_python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_model_and_training_loop_work_without_ray_and_mlflow() -> None:
    run_python(
        "import sys; sys.modules['ray'] = sys.modules['mlflow'] = None\n"
        "import clippy, clippy.model, clippy.inference, clippy.metrics, clippy.draw, clippy.gather\n"
        "import pipelines.loop, pipelines.samples"
    )


def test_using_a_model_imports_no_ray(tmp_path: Path) -> None:
    build(config()).save_pretrained(tmp_path)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    run_python(
        "import sys; sys.modules['ray'] = sys.modules['mlflow'] = None\n"
        "from cluster.cli import main\n"
        f"folder = {str(tmp_path)!r}\n"
        "assert main(['model', 'info', folder]) == 0\n"
        "assert main(['classify', folder, folder, '--labels', 'dax']) == 0\n"
        "assert main(['segment', folder, folder, '--labels', 'dax', '--out', folder + '/segments']) == 0\n"
        "assert main(['group', folder, folder, '--out', folder + '/groups']) == 0\n"
        "assert main(['search', folder, folder, '--phrase', 'dax', '--regions', '--out', folder + '/found']) == 0\n"
    )


@pytest.mark.parametrize(
    "code",
    ["import pipelines.recipe", "from cluster.cli import main", "import pipelines.evaluation.datasets.catalogue"],
)
def test_what_must_be_light_imports_neither_torch_nor_ray(code: str) -> None:
    run_python(f"import sys\n{code}\nassert not {{'torch', 'ray', 'mlflow', 'transformers'}} & set(sys.modules)")
