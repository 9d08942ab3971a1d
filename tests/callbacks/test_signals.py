"""Signals: before the first step they end the process with code 75, from then on they are noted and nothing more."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def program(code: str, *signals: signal.Signals) -> tuple[int, str]:
    """Run code that prints `ready`, send it signals, and return its exit code and what else it prints."""
    code = f"import os, signal, sys, time\nfrom callbacks.signals import hearing\nhearing.hear()\n{code}"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout.readline() == "ready\n"
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    printed, _ = process.communicate(timeout=20)
    return process.returncode, printed


READY = "print('ready', flush=True)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_before_the_first_step_a_signal_ends_the_process_with_75(number):
    code, printed = program(f"try:\n    {READY}\n    time.sleep(20)\nexcept BaseException:\n    pass", number)
    assert code == 75
    assert f"{number.name}: stopped before there was anything to save" in printed


def test_from_then_on_it_is_noted_and_the_step_goes_on():
    code, printed = program(
        f"hearing.defer()\n{READY}\ntime.sleep(1)\nprint(hearing.received)", signal.SIGUSR1
    )
    assert (code, printed) == (0, f"{int(signal.SIGUSR1)}\n")


def test_a_second_ctrl_c_does_not_wait():
    code, printed = program(
        f"hearing.defer()\n{READY}\ntry:\n    time.sleep(20)\nexcept KeyboardInterrupt:\n    print('now')",
        signal.SIGINT,
        signal.SIGINT,
    )
    assert (code, printed) == (0, "now\n")


@pytest.mark.parametrize(("deferring", "expected"), [(True, 0), (False, -signal.SIGTERM)])
def test_a_forked_process_leaves_it_to_a_training_and_else_ends(deferring, expected):
    """A data worker must not die of the job's signal before its training stops; others must be possible to end."""
    defer = "hearing.defer()" if deferring else ""
    code, printed = program(
        f"{defer}\nchild = os.fork()\n"
        f"if not child:\n    {READY}\n    time.sleep(1)\n    os._exit(0)\n"
        "time.sleep(0.2)\nos.kill(child, signal.SIGTERM)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert (code, printed) == (0, f"{int(expected)}\n")


def test_what_was_there_before_is_put_back():
    from callbacks.signals import Hearing

    before = signal.getsignal(signal.SIGUSR1)
    with Hearing() as hearing:
        assert signal.getsignal(signal.SIGUSR1) == hearing._handle
    assert signal.getsignal(signal.SIGUSR1) == before
