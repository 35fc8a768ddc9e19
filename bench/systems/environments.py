"""Virtual environments for what is measured beside us: made on first use, below `.bench/`, which git ignores."""

import subprocess
import sys

from bench.systems.base import Unavailable
from bench.systems.direct import ROOT

HOME = ROOT / ".bench"
REQUIREMENTS = ROOT / "bench" / "peers"
INSTALL_S = 600.0


def python_of(name: str) -> str:
    """The Python of the environment with what `bench/peers/<name>.txt` asks for. Raises Unavailable."""
    wanted = (REQUIREMENTS / f"{name}.txt").read_text()
    python, made = HOME / name / "bin" / "python", HOME / name / ".made"
    if made.exists() and made.read_text() == wanted:
        return str(python)
    print(f"Installing what {name} needs into {HOME.name}/{name} (the first time)", flush=True)
    pip = [str(python), "-m", "pip", "-qq", "--disable-pip-version-check", "install"]
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(HOME / name)], check=True, timeout=INSTALL_S)
        subprocess.run([*pip, "-r", str(REQUIREMENTS / f"{name}.txt")], check=True, timeout=INSTALL_S)
    except (subprocess.SubprocessError, OSError) as error:
        raise Unavailable(f"its packages cannot be installed: {error}") from error
    made.write_text(wanted)
    return str(python)
