"""Installing with uv or, if it fails, with pip. The tests run programs that record how they were called."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from scripts.install import InstallationError, create_environment, find_uv_pin, install
from tests.compose import PROJECT
from tests.unit.disks import fill, make_read_only, mounted_disk

PIN = "uv==0.13.9 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc"
REQUIREMENTS = f"rich==15.0.0 \\\n    --hash=sha256:aa\n{PIN}\nzzz==1\n"
UV = 'case "$1" in --version) echo "uv 0.13.9 (x86_64)";; *) {};; esac'
PIP = 'case "$*" in *config*) echo "global.index-url=\'https://packages.example/simple\'";; *) {};; esac'


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text(REQUIREMENTS, encoding="utf-8")
    return path


def write_program(path: Path, script: str) -> Path:
    """A shell script that writes its name and arguments to the file ``calls`` first."""
    path.write_text(f'#!/bin/sh\necho "{path.name} $*" >> "{path.parent}/calls"\n{script}\n', encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def read_calls(folder: Path) -> list[str]:
    """The calls that install something."""
    calls = (folder / "calls").read_text(encoding="utf-8").splitlines()
    return [call for call in calls if "--version" not in call and "config list" not in call]


def test_uv_installs_with_hashes_and_pips_index(tmp_path: Path, requirements: Path) -> None:
    """The pinned uv is used as it is, checks hashes, and gets pip's index."""
    python = write_program(tmp_path / "python", PIP.format("exit 1"))
    write_program(tmp_path / "uv", UV.format(f'echo "$UV_DEFAULT_INDEX" > "{tmp_path}/index"'))
    install(python, requirements)
    assert read_calls(tmp_path) == [f"uv pip install --python {python} --require-hashes --requirement {requirements}"]
    assert (tmp_path / "index").read_text(encoding="utf-8") == "https://packages.example/simple\n"


def test_pip_installs_the_pinned_uv(tmp_path: Path, requirements: Path) -> None:
    """If uv is missing or has another version, pip installs the pinned one and checks its hash."""
    python = write_program(tmp_path / "python", PIP.format(f'cat "$8" > "{tmp_path}/pin"'))
    write_program(tmp_path / "uv", 'if [ "$1" = --version ]; then echo "uv 0.1.0"; fi')
    install(python, requirements)
    first, second = read_calls(tmp_path)
    assert first.startswith("python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement ")
    assert second.startswith("uv pip install ")
    assert (tmp_path / "pin").read_text(encoding="utf-8") == f"{PIN}\n"


def test_a_failing_uv_is_replaced_by_pip(
    tmp_path: Path, requirements: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip installs the packages, with hashes too, after a sentence with the last line of uv's error."""
    python = write_program(tmp_path / "python", PIP.format("exit 0"))
    write_program(
        tmp_path / "uv", UV.format('echo "error: no" >&2; echo "  Caused by: invalid certificate" >&2; exit 2')
    )
    install(python, requirements)
    assert read_calls(tmp_path)[1:] == [
        f"python -m pip install --disable-pip-version-check --no-deps --require-hashes --requirement {requirements}"
    ]
    output = capsys.readouterr().out
    assert "uv could not install the packages: invalid certificate\ninstalling with pip instead" in output


def test_without_uv_pip_installs(tmp_path: Path, requirements: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If uv itself cannot be installed, the sentence gives pip's reason, and pip installs the packages."""
    script = 'case "$*" in *--quiet*) echo "ERROR: No matching distribution found for uv" >&2; exit 1;; esac'
    install(write_program(tmp_path / "python", script), requirements)
    assert "uv could not be installed: No matching distribution found for uv\n" in capsys.readouterr().out
    assert len(read_calls(tmp_path)) == 2


def test_if_both_fail_the_error_says_what_to_check(tmp_path: Path, requirements: Path) -> None:
    """The error names the network, pip's settings and the disk."""
    python = write_program(tmp_path / "python", "exit 1")
    with pytest.raises(InstallationError, match=r"pip could not install the packages either.*pip config list.*disk"):
        install(python, requirements)


def test_uvs_progress_is_shown_without_single_packages(
    tmp_path: Path, requirements: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Large downloads and summaries are shown, the list of hundreds of packages is not."""
    python = write_program(tmp_path / "python", PIP.format("exit 1"))
    lines = "Downloading torch (820.1MiB)\\n + rich==15.0.0\\nInstalled 222 packages in 1s\\n"
    write_program(tmp_path / "uv", UV.format(f'printf "{lines}" >&2'))
    install(python, requirements)
    assert capsys.readouterr().out == "  Downloading torch (820.1MiB)\n  Installed 222 packages in 1s\n"


def test_the_pin_includes_its_hashes() -> None:
    """uv's requirement ends with its last hash; a file without one is an error."""
    assert find_uv_pin(REQUIREMENTS) == PIN
    with pytest.raises(InstallationError, match="does not pin uv"):
        find_uv_pin("rich==15.0.0\n")


def test_requirements_pin_every_package_with_hashes_and_name_no_host() -> None:
    """requirements.txt has exact versions, a hash for each, and no registry's address."""
    text = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    packages = [number for number, line in enumerate(lines) if not line.startswith(" ")]
    assert len(packages) > 200
    for number in packages:
        assert "==" in lines[number]
        assert lines[number + 1].startswith("    --hash=sha256:")
    assert "://" not in text
    assert find_uv_pin(text).startswith("uv==")


def test_a_complete_environment_is_used_as_it_is(tmp_path: Path) -> None:
    """An environment with a Python and pip is not created again."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip").touch()
    python = write_program(tmp_path / "bin" / "python", "exit 1")
    assert create_environment(tmp_path) == python
    assert not (tmp_path / "pyvenv.cfg").exists()


def test_an_incomplete_environment_is_completed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Set-up that was interrupted before pip was there creates the environment again."""
    (tmp_path / "bin").mkdir()
    assert create_environment(tmp_path) == tmp_path / "bin" / "python"
    assert (tmp_path / "bin" / "pip").exists()
    assert capsys.readouterr().out == f"creating {tmp_path.name}\n"


#: ``python -m scripts.install`` into the environment that is its argument.
INSTALL = """
import sys
from pathlib import Path
from scripts import install
install.VENV = Path(sys.argv[1])
sys.exit(install.main())
"""


def start_installation(venv: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", INSTALL, str(venv)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_environment(venv: Path, uv: str) -> None:
    """A complete environment whose uv runs this script."""
    (venv / "bin").mkdir(parents=True)
    write_program(venv / "bin" / "python", PIP.format("exit 1"))
    (venv / "bin" / "pip").touch()
    pin = find_uv_pin((PROJECT / "requirements.txt").read_text(encoding="utf-8"))
    version = pin.split()[0].removeprefix("uv==")
    write_program(venv / "bin" / "uv", UV.replace("0.13.9", version).format(uv))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_installation_leaves_nothing_running(tmp_path: Path, signum: int) -> None:
    """uv and its children end too, even if only the installation gets the signal; the sentence says how to go on."""
    write_environment(tmp_path, f'sleep 300 & echo $! > "{tmp_path}/child"; wait')
    process = start_installation(tmp_path)
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "interrupted: run the same command again to resume\n")
    # It ends within a moment, and may stay in the list of processes until it is collected.
    child = int((tmp_path / "child").read_text())
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    assert not (tmp_path / ".installed").exists()


@pytest.mark.parametrize(("state", "new"), [("full", True), ("full", False), ("read-only", True), ("read-only", False)])
def test_installing_on_a_bad_disk(tmp_path: Path, state: str, new: bool) -> None:
    """One sentence names the folder; pip does not try for several minutes what uv could not do."""
    with mounted_disk(tmp_path / "disk", megabytes=4) as disk:
        if not new:
            write_environment(disk / ".venv", 'echo "error: failed to write" >&2; exit 2')
        (fill if state == "full" else make_read_only)(disk)
        process = start_installation(disk / ".venv")
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 1, output + errors
    (sentence,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in errors
    assert str(disk) in sentence
    assert ("is full" if state == "full" else "cannot be written") in sentence
    assert "installing with pip instead" not in output
