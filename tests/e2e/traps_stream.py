#!/usr/bin/env python3
"""The traps of traps.py in the stream form: the same programs, with a relay between them and the peer."""
import os
import pathlib
import sys

os.environ["FORM"] = "stream"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from traps import *  # noqa: E402,F403

del test_fork_in_records_form  # noqa: F821 (a child may use a plain descriptor: serve.py is full of that)

if __name__ == "__main__":
    main()  # noqa: F405
