"""Ctrl-C in a process of its own: while modules are imported, and while torch is."""

import os
import signal
import subprocess
import sys
import time

# Stands for torch, in whose import Ctrl-C would end the process with SIGABRT.
TORCH = """
import time
open("importing", "w").close()
try:
    time.sleep(1)
except KeyboardInterrupt:
    open("broken", "w").close()
    raise
"""
SLOW = "import time\nopen('importing', 'w').close()\ntime.sleep(60)\n"


def interrupt(folder, code: str) -> tuple[int, str]:
    """Run code in a folder, send SIGINT when the file `importing` appears, and return exit code and stderr."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not (folder / "importing").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=30)[1]
    return process.returncode, err


def test_an_interrupt_waits_for_the_import_of_torch(tmp_path):
    (tmp_path / "torch.py").write_text(TORCH)
    code = "from elmanctl.interrupt import install\ninstall()\nimport torch, time\nopen('done', 'w').close()\ntime.sleep(60)"
    returned, err = interrupt(tmp_path, code)
    assert err.endswith("KeyboardInterrupt\n") and returned != 0
    assert (tmp_path / "done").exists() and not (tmp_path / "broken").exists()


def test_an_interrupt_while_the_command_line_is_imported_is_one_line_and_130(tmp_path):
    (tmp_path / "typer.py").write_text(SLOW)
    assert interrupt(tmp_path, "from elmanctl.start import main; main()") == (
        130,
        "Interrupted. What was finished before is kept.\n",
    )
