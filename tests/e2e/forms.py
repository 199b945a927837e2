#!/usr/bin/env python3
"""The cases of Linux's kernel TLS selftest and of the hand-back, in the records form.

tests/vm/kernel.py runs the same program in both forms on a kernel that has TLS. Its lines are the result.
"""
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import ME, Scene, BUILD, ca, check, context  # noqa: E402

with Scene() as scene:
    agent = scene.agent(context("www", "p256", users=[ME]), context("fixed", "p256", users=[ME], prefer_rekey="true"))
    if "kernel has no module" in agent.process.text():
        told = agent.process.text().count("handed back in the records form")
        print("ok" if told == 1 else "FAIL", "fallback_is_said_once_in_the_log" + (" (0.0)" if told == 1 else ""))
    status = subprocess.run(
        [BUILD / "tests/vm/forms", "records", *([os.environ["FORM"]] if "FORM" in os.environ else [])],
        env={**os.environ, "FORMS_BULK": "32" if os.environ.get("SANITIZED") else "256", "FORMS_CA": str(ca()), "TLSAGENT_SOCK": str(agent.socket)}).returncode
sys.exit(status)
