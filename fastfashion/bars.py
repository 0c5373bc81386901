"""The progress bar of all commands: tqdm's, for threads of one process.

tqdm makes a lock for several processes with its first bar, which settles for the whole program how multiprocessing starts processes
(findings/tqdm-start-method.sh); `multiprocessing.set_start_method` is refused after that. A lock of our class's own leaves that, and
tqdm, alone.
"""

import threading

from tqdm import tqdm as _tqdm


class tqdm(_tqdm):  # the usual name
    pass


tqdm.set_lock(threading.RLock())
