"""A process as a node keeps them: reads its settings, says a port, and stays."""

import sys
import time

if __name__ == "__main__":
    sys.stdin.read()
    print(7, flush=True)
    time.sleep(600)
