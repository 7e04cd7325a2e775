"""Run uv with pip's network settings: ``python -m scripts.run_uv pip compile ...``.

Behind a company proxy, pip is usually configured already: its index, its certificates. uv does not read pip's
configuration, so it is passed on as environment variables. Standard library only.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from stack.interrupts import INTERRUPTED, handle_interrupts, raise_interrupt, say

#: pip's option, the uv variable it sets, and the variables that make uv ignore pip's option.
_PASSED_ON = (
    ("index-url", "UV_DEFAULT_INDEX", ("UV_DEFAULT_INDEX", "UV_INDEX_URL")),
    ("extra-index-url", "UV_INDEX", ("UV_INDEX", "UV_EXTRA_INDEX_URL")),
    ("trusted-host", "UV_INSECURE_HOST", ("UV_INSECURE_HOST",)),
    ("proxy", "ALL_PROXY", ("ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy")),
)


def parse_pip_config(listing: str) -> dict[str, str]:
    """The options in the output of ``pip config list``. The environment wins, then ``[install]``, then ``[global]``."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.partition(".")
        if section in sections and value:
            # pip prints each value as a Python literal, and separates the values of a list by whitespace.
            sections[section][option] = " ".join(str(ast.literal_eval(value)).split())
    return {**sections["global"], **sections["install"], **sections[":env:"]}


def uv_environment(environment: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for uv, with pip's options and its way of searching indexes. Variables that are set stay."""
    result = dict(environment)
    if not _any_set(environment, ("UV_SYSTEM_CERTS", "UV_NATIVE_TLS")):
        result["UV_SYSTEM_CERTS"] = "true"
    # Like pip, consider every index for every package. Hashes in requirements.txt say whether it is the right one.
    result.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    for option, variable, overrides in _PASSED_ON:
        if pip.get(option) and not _any_set(environment, overrides):
            result[variable] = pip[option]
    if pip.get("cert") and not _any_set(environment, ("SSL_CERT_FILE", "SSL_CERT_DIR")):
        result["SSL_CERT_DIR" if Path(pip["cert"]).is_dir() else "SSL_CERT_FILE"] = pip["cert"]
    return result


def read_pip_config(python: Path) -> dict[str, str]:
    """pip's options as this Python's pip sees them; none if pip cannot list them."""
    command = [str(python), "-m", "pip", "config", "list"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (this Python's pip)
    return parse_pip_config(answer.stdout) if answer.returncode == 0 else {}


def _any_set(environment: Mapping[str, str], names: tuple[str, ...]) -> bool:
    return any(environment.get(name) for name in names)


def main() -> int:
    """Returns uv's exit code, or 130 if interrupted; uv then ends too."""
    handle_interrupts(raise_interrupt)
    python = Path(sys.executable)
    try:
        environment = uv_environment(os.environ, read_pip_config(python))
        command = [str(python.parent / "uv"), *sys.argv[1:]]
        return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 (what the caller typed)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
