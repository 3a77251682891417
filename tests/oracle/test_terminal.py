"""What the programs do on a terminal: lora-train's bar, which fits its width and is redrawn in place; a conversation."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time

import pytest
from conftest import BIN
from models import make_rows
from safetensors.torch import load_file, save_file


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
    assert process.wait(timeout=600) == 0, written
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


class Conversation:
    """lora-generate --chat on a terminal: what is typed, and what is shown up to some text."""

    def __init__(self, *flags):
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            list(map(str, [BIN / "lora-generate", "--chat", *flags])),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=Conversation.attend,
        )
        os.close(theirs)

    @staticmethod
    def attend():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells ignore it in what they run in the background

    def type(self, text):
        os.write(self.ours, text.encode())

    def shown_to(self, end):
        return self.shown_until(lambda shown: shown.endswith(end.encode()), end).decode().replace("\r\n", "\n")

    def shown_beyond(self, text):
        """Waits for what comes after the text, whole characters or not."""
        self.shown_until(lambda shown: text.encode() in shown[:-1] and not shown.endswith(text.encode()), text)

    def shown_until(self, is_all, what):
        shown = b""
        last = time.monotonic() + 300
        while not is_all(shown):
            ready, _, _ = select.select([self.ours], [], [], max(0, last - time.monotonic()))
            assert ready and time.monotonic() < last, f"waits for {what!r} after {shown[-1000:]!r}"
            shown += os.read(self.ours, 65536)
        return shown

    def code(self):
        return self.process.wait(timeout=300)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture
def talk(zoo, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>")
    begun = []

    def begin(*flags, model=zoo["baichuan"].folder):
        begun.append(Conversation("--model_name_or_path", model, "--device", "cpu", "--chat_template", template, *flags))
        return begun[-1]

    yield begin
    for conversation in begun:
        conversation.close()


@pytest.fixture
def endless(zoo, tmp_path):
    """A model whose greedy answers do not end: eos is never the likeliest."""
    folder = shutil.copytree(zoo["baichuan"].folder, tmp_path / "endless")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][2] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1 << 20}))
    return folder


def test_ctrl_c_stops_the_answer_and_at_the_prompt_the_program(talk, endless):
    chat = talk("--max_new_tokens", 1 << 20, model=endless)
    chat.shown_to("> ")
    chat.type("hello\n")
    chat.shown_beyond("hello\r\n")  # the terminal's echo: what follows is the answer
    chat.type("\x03")
    assert "(cancelled)\n" in chat.shown_to("\r\n> ")
    chat.type("/reset\n")
    assert "what was said is forgotten" in chat.shown_to("\r\n> ")
    chat.type("/nothing\n")
    assert "/nothing is no command; /help lists them" in chat.shown_to("\r\n> ")
    chat.type("unfinished\x03")
    assert "Ctrl-C again ends" in chat.shown_to("\r\n> ")
    chat.type("\x03")
    assert chat.code() == 0


def test_what_cannot_be_answered_is_told(talk):
    chat = talk("--max_new_tokens", 3)
    chat.shown_to("> ")
    chat.type("hello " * 300 + "\n")
    assert "/reset begins a new one" in chat.shown_to("\r\n> ")
    chat.type("hi\n")
    chat.shown_to("\r\n> ")
    chat.type("/exit\n")
    assert chat.code() == 0
