import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "vae").rglob("*.py")
}
# A room may import its own modules and the rooms of the lines above it (docs/rooms.md).
ORDER = [
    {"errors"},
    {"files", "device", "flags"},
    {"run_folders"},
    {"data"},
    {"models"},
    {"latent", "checkpoint_form"},
    {"checkpoint"},
    {"pictures"},
    {"editing"},
    {"evaluation"},
    {"training"},
    {"run"},
]
SCRIPTS = {"train", "train_judge", "generate", "manipulate", "evaluate"}
OPTIONAL = {"download.py": {"gdown"}, "fid.py": {"torchmetrics", "torch_fidelity"}}
OPTIONAL |= {"page.py": {"playwright"}, "finding.py": {"cv2"}, "faces_found.py": {"cv2"}}
OPTIONAL |= {"parquet.py": {"pyarrow"}, "decoding.py": {"pillow_heif"}, "peers.py": {"pythae"}}


def imported(path: Path) -> set[str]:
    """Return the modules that a file names in its imports, wherever they stand."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_the_package_imports_neither_config_nor_a_script():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert scripts >= SCRIPTS | {"config"}
    for module, path in MODULES.items():
        assert not imported(path) & scripts, module


def test_imports_go_one_way_through_the_rooms():
    level = {room: number for number, rooms in enumerate(ORDER) for room in rooms}
    assert {room_of(module) for module in MODULES} == {*level, "vae"}
    for module, path in MODULES.items():
        for used in imported(path) & set(MODULES):
            here, there = room_of(module), room_of(used)
            if module != "vae" and here != there:
                assert level[there] < level[here], f"{module} imports {used}"


def test_no_module_leads_back_to_itself():
    uses = {module: imported(path) & set(MODULES) for module, path in MODULES.items()}
    left = set(MODULES)
    while left:
        leaves = {module for module in left if not uses[module] & left}
        assert leaves, f"a cycle among {sorted(left)}"
        left -= leaves


def test_the_diagram_in_docs_shows_every_room():
    diagram = (ROOT / "docs/rooms.md").read_text()
    for rooms in ORDER:
        for room in rooms:
            assert f" {room}" in diagram, room


def test_a_folder_re_exports_nothing():
    for path in (ROOT / "vae").rglob("*/__init__.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        assert len(tree.body) == 1 or path == ROOT / "vae/__init__.py", path


def test_only_the_synthetic_faces_and_the_parts_hold_attribute_names():
    from vae.data.synthetic.attributes import ATTRIBUTE_NAMES

    # words that stand for something else as well
    names = set(ATTRIBUTE_NAMES)
    for module, path in MODULES.items():
        if module.startswith("vae.data.synthetic"):
            continue
        texts = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        allowed = {"Smiling", "High_Cheekbones", "Mouth_Slightly_Open"}
        assert not texts & names - (allowed if module.endswith("directions") else set()), module


@pytest.mark.parametrize("name", ["config.py", "vae/flags.py"])
def test_settings_and_flags_import_the_standard_library_alone(name):
    roots = {module.split(".")[0] for module in imported(ROOT / name) - {"vae.errors"}}
    assert roots <= sys.stdlib_module_names


def test_only_the_named_packages_are_imported():
    named = {"torch", "torchvision", "numpy", "matplotlib", "PIL", "tqdm"}
    tests = set(ROOT.glob("tests/**/*.py"))
    ours = {"vae", "benchmarks"} | {path.stem for path in [*ROOT.glob("*.py"), *tests]}
    for path in [*ROOT.glob("*.py"), *ROOT.glob("benchmarks/*.py"), *tests, *MODULES.values()]:
        roots = {name.split(".")[0] for name in imported(path)}
        extra = {"pytest"} if path in tests else OPTIONAL.get(path.name, set())
        assert roots <= named | ours | extra | sys.stdlib_module_names, path


def test_the_package_can_be_imported_from_anywhere(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from vae import VAE, open_run"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_what_is_installed_are_all_folders_of_the_package_and_the_trained_model():
    listed = re.search(r"packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    folders = [path.parent.relative_to(ROOT) for path in (ROOT / "vae").rglob("__init__.py")]
    expected = {".".join(folder.parts) for folder in folders} | {"vae.pretrained"}
    assert set(re.findall(r'"(.+?)"', listed[1])) == expected


def test_in_the_clone_the_trained_model_is_that_of_its_folder():
    from vae.run_folders import PRETRAINED

    assert PRETRAINED == ROOT / "pretrained"
