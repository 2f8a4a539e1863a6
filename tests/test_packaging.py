"""What ships: the lock, the environments, the wheel and the files that name each other."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?: ; ([^\\]+?))?(?= \\|$)")
CPU_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)


def _text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def _yaml(name):
    return yaml.safe_load(_text(name))


PROJECT = tomllib.loads(_text("pyproject.toml"))["project"]
LOCK = _text("requirements.lock")
# One requirement each, its hashes and comments with it.
ENTRIES = [e for e in re.split(r"\n(?=[A-Za-z0-9])", LOCK) if not e.startswith("#")]


@pytest.fixture(scope="module")
def locked():
    versions = {}
    for entry in ENTRIES:
        match = PINNED.match(entry)
        assert match is not None, f"not pinned: {entry.splitlines()[0]}"
        versions.setdefault(canonicalize_name(match[1]), []).append(Version(match[2]))
    return versions


def test_the_lock_satisfies_every_dependency(locked):
    asked = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    for requirement in map(Requirement, asked):
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement} is not in the lock"
        assert all(v in requirement.specifier for v in versions), f"{requirement}: {versions}"


def test_every_entry_of_the_lock_has_hashes_and_none_an_address():
    assert len(ENTRIES) > 100
    assert [e.splitlines()[0] for e in ENTRIES if "--hash=sha256:" not in e] == []
    assert re.findall(r"https?://\S+|--(?:extra-)?index-url|--find-links", LOCK) == []


def test_conda_brings_torch_and_the_lock_all_else(locked, tmp_path):
    packages = _yaml("environment.yml")["dependencies"]
    asked = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    brought = {"pytorch-cpu": asked["torch"], "torchvision": asked["torchvision"]}
    assert {f"{name}{specifier}" for name, specifier in brought.items()} < set(packages)
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    cpu_lock = "_build/requirements-cpu.lock"
    subprocess.run(["make", "--silent", "-C", str(tmp_path), cpu_lock], check=True)
    kept = {canonicalize_name(m[1]) for m in CPU_PINNED.finditer((tmp_path / cpu_lock).read_text())}
    gpu = {name for name in locked if name.startswith(("nvidia-", "cuda-"))}
    assert set(locked) - kept == gpu | {"torch", "torchvision", "triton"}
    (python,) = (p.removeprefix("python=") for p in packages if p.startswith("python="))
    assert f"--python-version {python} " in LOCK
    assert Version(python) in Requirement(f"python{PROJECT['requires-python']}").specifier
    # pip takes no editable package beside hashed ones; Binder's hook installs it afterwards.
    hook = _text("postBuild")
    assert cpu_lock in hook and "pip install --no-deps --editable ." in hook


def test_citation_and_licence_agree_with_the_package():
    citation = _yaml("CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    licence = _text("LICENSE")
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence


def test_the_table_of_contents_names_files_that_exist():
    toc = _yaml("_toc.yml")
    named = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
    missing = [n for n in named if not any((ROOT / f"{n}{s}").is_file() for s in (".md", ".ipynb"))]
    assert missing == []
    written = {p.stem for p in (ROOT / "book").glob("*.md")}
    assert {Path(n).name for n in named if n.startswith("book/")} == written


def test_the_address_of_the_repository_is_one_setting():
    address = _yaml("_config.yml")["repository"]["url"]
    texts = [*ROOT.glob("*.*"), *ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.md")]
    texts += [*ROOT.glob("geolib/**/*.py"), *ROOT.glob(".github/**/*.yml")]
    naming = [p.name for p in texts if p.is_file() and address in p.read_text(encoding="utf-8")]
    assert naming == ["_config.yml"]


def test_ci_runs_the_command_of_the_readme():
    assert "make test" in _text("README.md") and "make test" in _text(".ci/run")
    test, book = (_yaml(f".github/workflows/{name}.yml") for name in ("test", "book"))
    assert "bash .ci/run" in [step.get("run") for step in test["jobs"]["test"]["steps"]]
    assert "make book" in [step.get("run") for step in book["jobs"]["build"]["steps"]]
    assert "schedule" in test[True], "YAML reads the key `on` as true"
    assert "3.11" in test["jobs"]["test"]["strategy"]["matrix"]["python"]


def test_actions_are_pinned_by_hash_and_updated():
    workflows = "\n".join(_text(path) for path in ROOT.glob(".github/workflows/*.yml"))
    used = re.findall("uses: (.*)", workflows)
    assert len(used) > 5
    assert [one for one in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", one)] == []
    ecosystems = [u["package-ecosystem"] for u in _yaml(".github/dependabot.yml")["updates"]]
    assert "github-actions" in ecosystems


def test_a_wheel_carries_the_data_and_reads_them(tmp_path):
    # Where uv is not installed, make has put a copy of it there.
    uv = shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".venv/.uv/bin"))
    if uv is None:
        pytest.skip("uv, which `make env` finds or fetches, is not there to build a wheel with")
    command = [uv, "build", "--wheel", "--out-dir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and re.search(r"(?i)fetch|resolve|connect|find a version", built.stderr):
        pytest.skip(f"the build backend cannot be fetched: {built.stderr.strip()[-200:]}")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    shipped = {p.name for p in (tmp_path / "site/geolib/_data").rglob("*") if p.is_file()}
    own = {p.name for p in (ROOT / "data").rglob("*") if p.is_file()}
    assert shipped == own and own
    read = (
        "import sys, geolib, geolib.runtime.here as p; "
        "print(geolib.__file__); print(*map(p.data_file, sys.argv[1:]))"
    )
    top_level = sorted(p.name for p in (ROOT / "data").iterdir() if p.is_file())
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    command = [sys.executable, "-c", read, *top_level]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    package, *files = done.stdout.split()
    assert package == str(tmp_path / "site/geolib/__init__.py")
    assert files == [str(tmp_path / "site/geolib/_data" / name) for name in top_level]
