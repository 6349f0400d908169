"""The allocator setting says whether it was taken."""

import subprocess
import sys

from scratch_vlm.backend import keep_freed_memory, memory


def test_it_says_whether_the_c_library_took_the_settings():
    # In a process of its own: the setting outlives the call.
    code = "from scratch_vlm.backend import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("True", "False")


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


def test_a_c_library_without_the_setting_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False
