"""A memory control group, cold files and a disk's read-ahead. Linux, as root."""

import contextlib
import mmap
import os
import time
from pathlib import Path

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class MemoryGroup:
    """A control group with a limit on memory, the page cache with it. `enter` is run by the child that it is for."""

    def __init__(self, name, limit_bytes):
        self.is_v1 = (V1 / "memory.limit_in_bytes").exists()
        self.folder = (V1 if self.is_v1 else V2) / f"odmoe-{name}-{os.getpid()}"
        self.limit_bytes = limit_bytes

    def __enter__(self):
        self.folder.mkdir()
        (self.folder / ("memory.limit_in_bytes" if self.is_v1 else "memory.max")).write_text(str(self.limit_bytes))
        return self

    def __exit__(self, *_):
        # The kernel lets go of the last process a moment after it has ended.
        for _attempt in range(50):
            with contextlib.suppress(OSError):
                return self.folder.rmdir()
            time.sleep(0.1)

    def enter(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def peak_bytes(self):
        return int((self.folder / ("memory.max_usage_in_bytes" if self.is_v1 else "memory.peak")).read_text())


def cold_files():
    """Forgets what the page cache holds of files: what another process has read is not charged to the group."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def free_bytes():
    """Memory that nobody uses."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemFree:"))
    return int(line.split()[1]) << 10


def touch_memory(size_bytes):
    """Has the host back this much memory for whoever comes next.

    Hosts of virtual machines take back what their guests leave free; the first touch of it then costs more than a disk
    read of as many bytes, for any program alike.
    """
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for offset in range(0, size_bytes, mmap.PAGESIZE):
            memory[offset] = 1


@contextlib.contextmanager
def read_ahead(path, kib):
    """Sets the read-ahead of the disk that a file lies on, and sets it back."""
    device = os.stat(path).st_dev
    link = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    queue = next(folder / "queue" for folder in (link, link.parent) if (folder / "queue").exists())
    setting = queue / "read_ahead_kb"
    before = setting.read_text()
    setting.write_text(str(kib))
    try:
        yield
    finally:
        setting.write_text(before)
