import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "vae").rglob("*.py")
}


def imported(path: Path) -> set[str]:
    """Return the modules that a file names in its imports, wherever they stand."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def test_the_package_imports_neither_config_nor_a_script():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert {"config", "train", "generate", "manipulate", "evaluate"} <= scripts
    for room, path in ROOMS.items():
        assert not imported(path) & scripts, room


def test_no_room_leads_back_to_itself():
    uses = {room: imported(path) & set(ROOMS) for room, path in ROOMS.items()}
    left = set(ROOMS)
    while left:
        leaves = {room for room in left if not uses[room] & left}
        assert leaves, f"a cycle among {sorted(left)}"
        left -= leaves


def test_config_imports_the_standard_library_alone():
    roots = {name.split(".")[0] for name in imported(ROOT / "config.py")}
    assert roots <= sys.stdlib_module_names


def test_only_the_named_packages_are_imported():
    named = {"torch", "torchvision", "numpy", "matplotlib", "PIL", "tqdm"}
    tests = set(ROOT.glob("tests/*.py"))
    ours = {"vae", "benchmarks"} | {path.stem for path in [*ROOT.glob("*.py"), *tests]}
    for path in [*ROOT.glob("*.py"), *ROOT.glob("benchmarks/*.py"), *tests, *ROOMS.values()]:
        roots = {name.split(".")[0] for name in imported(path)}
        extra = {"pytest"} if path in tests else set()
        extra |= {"gdown"} if path.name == "download.py" else set()
        extra |= {"pythae"} if path.name == "against_pythae.py" else set()
        extra |= {"torchmetrics", "torch_fidelity"} if path.name == "inception.py" else set()
        extra |= {"cv2"} if path.name == "faces_found.py" else set()
        assert roots <= named | ours | extra | sys.stdlib_module_names, path


def test_the_package_can_be_imported_from_anywhere(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from vae import VAE, load_model"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
