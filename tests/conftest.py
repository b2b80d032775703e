"""One thread for each process of tests: threads of several would take each other's cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for what is started
