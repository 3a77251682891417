"""What lora-train draws on a terminal: a bar within its width, redrawn in place, with messages above it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios

import pytest
from conftest import BIN
from models import make_rows


def on_terminal(command, columns, **environment):
    """What the command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        list(map(str, command)), stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=os.environ | environment
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait(timeout=120) == 0, written
    return written.decode()


@pytest.mark.parametrize(
    ("columns", "environment", "filled"),
    [(40, {"LC_ALL": "C"}, "#"), (80, {"LC_ALL": "C.UTF-8"}, "█"), (120, {"LC_ALL": "zh_CN.utf8"}, "█")],
)
def test_bar_fits_the_terminal(columns, environment, filled, zoo, tmp_path):
    rows = make_rows(21, seed=3).save_json_lines(tmp_path / "rows.jsonl")
    command = [
        BIN / "lora-train", "--model_name_or_path", zoo["baichuan"].folder, "--dataset", rows, "--target_modules", "W_pack",
        "--output_dir", tmp_path / "训练结果", "--max_steps", 12, "--logging_steps", 3, "--save_steps", 4, "--device", "cpu",
    ]  # fmt: skip
    text = on_terminal(command, columns, TERM="xterm", **environment)
    bars = re.findall("\x1b\\[\\?7l\r([^\x1b\r\n]*)\x1b\\[K\x1b\\[\\?7h", text)
    assert len(bars) >= 2, text
    assert all(len(bar) < columns for bar in bars), bars
    assert "12/12" in bars[-1] and "100%" in bars[-1] and "loss " in bars[-1] and " left" in bars[-1], bars[-1]
    assert filled in bars[-1] or columns == 40, bars[-1]
    assert ("tokens/s" in bars[-1]) == (columns >= 80), bars[-1]
    # Taken away before what is said, and after the last step it stays, with a line of its own.
    rest = re.sub("\x1b\\[\\?7l\r[^\x1b\r\n]*\x1b\\[K\x1b\\[\\?7h", "", text).replace("\r\n", "\n").replace("\r\x1b[K", "")
    assert "\x1b" not in rest and "\r" not in rest, rest
    assert rest.rstrip().endswith("训练结果"), rest
