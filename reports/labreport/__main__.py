"""`python -m labreport`: what run_all.sh hands over to."""

import signal
import sys

from labreport.cli import main

signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill stops the kernels too, as Ctrl-C does
sys.exit(main(sys.argv[1:]))
