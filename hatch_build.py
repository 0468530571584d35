"""Build hook: compile the kernels, sklstm/*.c, where there is a C compiler.

Without one (or on Windows) the package is pure Python and runs on torch's own kernels.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path(__file__).parent / "sklstm"
AVX512 = ["-mavx512f", "-mavx512dq", "-mfma"]
BF16 = [*AVX512, "-mavx512bw", "-mavx512bf16"]
X86_VARIANTS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512,
    "avx512_bf16": BF16,
    "amx": [*BF16, "-mamx-tile", "-mamx-bf16"],
}


def variants():
    """Return the compiler flags of each variant for this kind of processor."""
    machine = platform.machine().lower()
    if sys.platform == "win32":
        return {}
    if machine in ("x86_64", "amd64"):
        # Linux alone is asked for tiles.
        is_known = sys.platform == "linux"
        return {k: v for k, v in X86_VARIANTS.items() if is_known or k != "amx"}
    return {"neon": []} if machine in ("aarch64", "arm64") else {}


def compile_variant(name, flags):
    """Compile one variant; return its path, or None with a warning."""
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        warnings.warn(
            f"No C compiler {compiler[0]!r}: sklstm will run on torch's kernels, which "
            "are about half as fast on a CPU.",
            stacklevel=2,
        )
        return None
    try:
        return run_compiler(compiler, name, flags)
    except OSError as error:  # of the compiler, or a folder that cannot be written to
        warnings.warn(f"No kernels for {name}: {error}", stacklevel=2)
        return None


def run_compiler(compiler, name, flags):
    """Compile one variant; return its path, or None with a warning."""
    # With two points it is no module, which tools that import all there are would try.
    target = PACKAGE / f"kernels.{name}.so"
    # Next to the target, so that it is replaced in one step: it may be in use.
    with tempfile.TemporaryDirectory(dir=PACKAGE) as folder:
        made = Path(folder) / target.name
        # GCC's default, not that of others or of -std=c11: a row alone comes out the
        # same to the last bit only if all of its products are fused with their sums.
        exact = ["-fno-math-errno", "-ffp-contract=fast"]
        command = [*compiler, "-O3", *exact, *flags, "-shared", "-fPIC"]
        command += ["-o", str(made), *map(str, sorted(PACKAGE.glob("*.c"))), "-lm"]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode:
            warnings.warn(f"{' '.join(command)} failed:\n{done.stderr}", stacklevel=2)
            return None
        made.replace(target)
    return target


class NativeKernels(BuildHookInterface):
    """Put the compiled variants into the wheel, which then is for one platform."""

    def initialize(self, version, build_data):
        """Compile before the wheel is put together."""
        made = [compile_variant(name, flags) for name, flags in variants().items()]
        made = [path for path in made if path is not None]
        if made:
            tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{tag}"
            build_data["pure_python"] = False
            build_data["artifacts"].extend(f"sklstm/{path.name}" for path in made)
