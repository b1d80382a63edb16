"""What the image is made of, and what it can do with no rights at all."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from importlib.metadata import PathDistribution, distributions
from pathlib import Path

import pytest

from tests.builders import CONFIG_TEXT
from tests.k8s.image.building import CONTAINERFILE, ROOT, Built
from tests.k8s.image.locks import read_lock
from tests.k8s.image.podman import RESTRICTED, once, podman
from tests.k8s.tally import Tally

pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]

UID = 10001
HOME = Path("opt/datastreamx")

# Every compiled function, and how often it came from the cache and from the compiler.
COMPILED = """
import json
from numba.core.dispatcher import Dispatcher
from operators.viewing import kernel, packing, warm
warm.warm_up()
functions = [f for module in (kernel, packing) for f in vars(module).values() if isinstance(f, Dispatcher)]
found = {f.py_func.__qualname__: f.stats for f in functions}
print(json.dumps({
    "hits": sum(sum(stats.cache_hits.values()) for stats in found.values()),
    "misses": sorted(name for name, stats in found.items() if stats.cache_misses),
    "troubles": len(warm.troubles),
}))
"""

# Loads every compiled module of every package; those that want a library that is not there, and which.
LIBRARIES = """
import ctypes, json, os, pathlib, sys
import llvmlite, numpy, pyarrow  # what others are linked with
paths = [path for path in pathlib.Path(sys.argv[1]).rglob("*.so*") if ".libs" not in str(path)]
missing = {}
for path in paths:
    try:
        ctypes.CDLL(str(path), mode=os.RTLD_LAZY)
    except OSError as error:
        if "cannot open shared object file" in str(error):
            missing[path.name] = str(error).partition(":")[0]
print(json.dumps([len(paths), missing]))
"""

# Numba's other ways to run loops in parallel, which we do not.
OPTIONAL = {"libtbb.so.12", "libgomp.so.1.0.0"}


def inspected(built: Built) -> dict[str, object]:
    found: list[dict[str, object]] = json.loads(podman("image", "inspect", built.name))
    return found[0]


def walked(files: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, names, others in os.walk(files):
        for name in (*names, *others):
            path = Path(folder) / name
            yield path.relative_to(files), path.lstat()


def found(files: Path, is_it: Callable[[Path, os.stat_result], bool]) -> list[Path]:
    return [path for path, status in walked(files) if is_it(path, status)]


# What it is made of ------------------------------------------------------------------------------------------------


def test_image_says_what_it_is_and_from_what_it_was_built(built: Built) -> None:
    image = inspected(built)
    labels = image["Labels"]
    assert isinstance(labels, dict)
    assert labels["org.opencontainers.image.version"] == built.version
    assert labels["org.opencontainers.image.revision"] == built.revision
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert "datastreamx-base" in labels["org.opencontainers.image.base.name"]
    config = image["Config"]
    assert isinstance(config, dict)
    assert config["User"] == f"{UID}:{UID}"
    assert config["Entrypoint"] == ["datastreamx"]
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["ExposedPorts"]) == ["9090/tcp"]


def test_base_is_fixed_by_digest_and_the_only_one() -> None:
    text = CONTAINERFILE.read_text(encoding="utf-8")
    (base,) = re.findall(r"^ARG BASE=(.+)$", text, re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}", "dependencies"}


def test_image_holds_the_locked_packages_and_no_other(files: Path, tally: Tally) -> None:
    locked = read_lock(ROOT / "requirements-run.lock")
    site = files / HOME / "venv/lib/python3.11/site-packages"
    installed = {_name(one): one.version for one in distributions(path=[str(site)])}
    assert installed == {name: entry.version for name, entry in locked.items()}
    assert {_name(one) for one in distributions(path=[str(files / HOME / "app")])} == {"datastreamx"}
    tally("image", len(installed))


def _name(distribution: object) -> str:
    assert isinstance(distribution, PathDistribution)
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()


def test_image_holds_what_production_runs_and_nothing_else_of_the_project(files: Path) -> None:
    app = files / HOME / "app"
    packages = {path.name for path in app.iterdir() if (path / "__init__.py").exists() or path.name.isidentifier()}
    assert packages == {"aggregators", "bin", "datastreamx", "flows", "operators", "sinks", "sources"}
    assert not [*app.rglob("test_*"), *app.rglob("*.toml.orig")]
    assert (app / "datastreamx/config/example.toml").exists()


def test_image_holds_no_package_manager_of_python_and_no_compiler(files: Path) -> None:
    tools = re.compile(r"(pip[0-9.]*|wheel|easy_install.*|uv|gcc.*|g\+\+.*|cc|c\+\+|ld|as|make|clang.*)")
    programs = found(
        files, lambda path, status: bool(status.st_mode & 0o111) and tools.fullmatch(path.name) is not None
    )
    assert [path for path in programs if path.parent.name in {"bin", "sbin"}] == []
    parts = {"pip", "setuptools", "ensurepip", "wheel"}
    assert found(files, lambda path, _: path.name in parts and "python3.11" in path.parts) == []
    assert found(files, lambda path, _: path.suffix == ".whl") == []


def test_no_file_gives_more_rights_and_only_root_may_write(files: Path, tally: Tally) -> None:
    count = sum(1 for _ in walked(files))

    def is_open(_: Path, status: os.stat_result) -> bool:
        # Folders such as /tmp, where all may write and none may touch what is another's.
        is_shared = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        return not stat.S_ISLNK(status.st_mode) and bool(status.st_mode & stat.S_IWOTH) and not is_shared

    assert found(files, lambda _, status: bool(status.st_mode & 0o6000)) == []
    assert found(files, is_open) == []
    assert found(files, lambda _, status: UID in {status.st_uid, status.st_gid}) == []
    ours = files / HOME
    assert found(ours, lambda _, status: (status.st_uid, status.st_gid) != (0, 0)) == []
    assert found(ours, lambda _, status: bool(status.st_mode & 0o022) and not stat.S_ISLNK(status.st_mode)) == []
    tally("image", count)


def test_secrets_of_the_build_are_not_in_the_image(built: Built, files: Path) -> None:
    assert not (files / "etc/pip.conf").exists()
    assert not [*(files / "root").rglob("*pip*"), *(files / "run").rglob("*secret*")]
    said = podman("history", "--no-trunc", "--format={{.CreatedBy}}", built.name) + json.dumps(inspected(built))
    assert [secret for secret in built.secrets if secret in said] == []


def test_python_need_compile_nothing(files: Path) -> None:
    sources = [path for path in (files / HOME).rglob("*.py") if "lib2to3" not in path.parts]
    missing = [path for path in sources if not (path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc").exists()]
    # What cannot be compiled at all is no module: templates of other packages.
    assert [path for path in missing if _compiles(path)] == []
    # Flags of a pyc: 1, checked by content and never by time; 0 in the second bit, never checked at all.
    pyc = files / HOME / "app/flows/__pycache__/run.cpython-311.pyc"
    assert pyc.read_bytes()[4:8] == b"\x01\x00\x00\x00"


def _compiles(path: Path) -> bool:
    try:
        compile(path.read_bytes(), str(path), "exec")
    except SyntaxError:
        return False
    return True


# What it can do ----------------------------------------------------------------------------------------------------


def test_container_has_no_rights_at_all(built: Built) -> None:
    done = once(built.name, "/proc/self/status", options=["--entrypoint=cat"])
    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines())
    assert {status["Uid"], status["Gid"]} == {"\t".join(4 * [str(UID)])}
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {16 * "0"}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize("folder", ["", "/opt/datastreamx/numba", "/etc", "/var/lib", "/run", "/root", "/home"])
def test_nothing_can_be_written(built: Built, folder: str) -> None:
    assert once(built.name, f"{folder}/x", options=["--entrypoint=touch"]).returncode == 1


def test_not_even_its_user_can_write_where_the_root_is_not_read_only(built: Built) -> None:
    options = [option for option in RESTRICTED if option != "--read-only"]
    done = podman("run", "--rm", *options, "--entrypoint=sh", built.name, "-c", "touch /opt/datastreamx/x 2>&1 || true")
    assert "Permission denied" in done


def test_version_is_the_project_s(built: Built) -> None:
    done = once(built.name, "--version")
    assert (done.returncode, done.stdout) == (0, f"datastreamx {built.version}\n")


def test_configuration_is_validated_where_it_is_mounted(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "datastreamx.toml"
    path.write_text(CONFIG_TEXT, encoding="utf-8")
    options = [f"--volume={path}:/etc/datastreamx/datastreamx.toml:ro"]
    done = once(built.name, "validate", options=options)
    assert done.returncode == 0, done.stderr
    path.write_text(CONFIG_TEXT + "\n[nonsense]\n", encoding="utf-8")
    done = once(built.name, "validate", options=options)
    assert done.returncode == 3
    assert "nonsense" in done.stderr


def test_what_needs_the_simulators_says_that_they_are_left_out(built: Built) -> None:
    for command in (["demo"], ["simulate"], ["bench", "--seconds", "0.1"]):
        done = once(built.name, *command)
        assert done.returncode == 1
        assert "simulators" in done.stderr
        assert "Traceback" not in done.stderr


def test_compiled_functions_come_from_the_cache(built: Built, tally: Tally) -> None:
    compiled = json.loads(_python(built, COMPILED))
    assert compiled["misses"] == []
    assert compiled["troubles"] == 0
    assert compiled["hits"] > 0
    tally("image", compiled["hits"])


def test_cache_of_another_processor_would_be_noticed(built: Built) -> None:
    compiled = json.loads(_python(built, COMPILED, "--env=NUMBA_CPU_NAME=x86-64-v3", "--env=NUMBA_CPU_FEATURES="))
    assert compiled["hits"] == 0
    assert compiled["misses"] != []
    assert compiled["troubles"] > 0


def test_every_library_finds_those_that_it_is_linked_with(built: Built, tally: Tally) -> None:
    count, missing = json.loads(_python(built, LIBRARIES, arguments=["/opt/datastreamx/venv/lib"]))
    assert {file: library for file, library in missing.items() if library not in OPTIONAL} == {}
    tally("image", count)


def test_python_loads_nothing_from_where_it_is_started(built: Built, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "datastreamx").mkdir()
    (tmp_path / "datastreamx/__init__.py").write_text("raise SystemExit('hijacked')", encoding="utf-8")
    done = once(
        built.name, "-m", "datastreamx.cli", "--version",
        options=[f"--volume={tmp_path}:/volume:ro", "--workdir=/volume", "--entrypoint=python"],
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"datastreamx {built.version}\n")


def _python(built: Built, program: str, *options: str, arguments: tuple[str, ...] | list[str] = ()) -> str:
    done = once(built.name, "-c", program, *arguments, options=["--entrypoint=python", *options])
    assert done.returncode == 0, done.stderr
    # Behind what is logged, if anything is.
    return done.stdout.splitlines()[-1]
