"""`python -m labreport`: what run_all.sh hands over to."""

import os
import signal
import sys

from labreport.cli import main

signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill stops the kernels too, as Ctrl-C does
try:
    sys.exit(main(sys.argv[1:]))
finally:
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it any more, or its disk is full: said, and not once more at the very end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
