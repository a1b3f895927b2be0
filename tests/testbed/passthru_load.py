#!/usr/bin/env python3
"""In the guest: keeps a KV namespace busy through the kernel's passthrough, and checks every byte that comes back.

    tests/testbed/passthru_load.py [--run N] [--threads N] [--calm] [--forgets] PROGRESS

Stores, retrieves, checks and deletes values of 16 bytes to 1 MiB by NVME_IOCTL_IO64_CMD on the only generic namespace
device (/dev/ng*n1), each thread on a processor of its own, until it is sent SIGTERM. The number of commands that
succeeded so far stands in the file PROGRESS. The device may vanish and come back, and commands may fail as path errors,
unless --calm is given. A value that was acknowledged must be there, and be the last one; with --forgets, for a target that
is killed, it may be a miss or an earlier one. Each --run has keys of its own. A command whose outcome is not known leaves its key to nobody.

Its last line counts what it did. Exit codes: 0 all was right; 1 wrong bytes, a status that does not belong there, or a
command that does not end.
"""

import argparse
import ctypes
import errno
import fcntl
import glob
import itertools
import os
import random
import signal
import struct
import sys
import threading
import time

STORE, RETRIEVE, DELETE, EXIST = 0x01, 0x02, 0x10, 0x14
MISS = 0x87
PATH_ERRORS = range(0x300, 0x400)
# linux/nvme_ioctl.h: struct nvme_passthru_cmd64 and NVME_IOCTL_IO64_CMD, _IOWR('N', 0x48, 80 bytes).
COMMAND = struct.Struct("<BBHIIIQQII6IIIQ")
IO64 = 0xC0504E48
SIZES = [16, 100, 4096, 8192, 8193, 65536, 102400, 1 << 20]
LONGEST = max(SIZES)
HEADER = struct.Struct("<QQ")
NOISE = random.Random(4).randbytes(3 << 20)
# Beyond the kernel's own time limit of 30 s, and its reconnects.
PATIENCE = 90


class Lost(Exception):
    """The command failed on its way, or the device is gone: nobody knows whether it was carried out."""


class Namespace:
    def __init__(self, patient):
        self.patient, self.file = patient, None
        self.buffer = ctypes.create_string_buffer(LONGEST + 4096)
        self.address = (ctypes.addressof(self.buffer) + 4095) & ~4095
        self.view = memoryview(self.buffer).cast("B")[self.address - ctypes.addressof(self.buffer):]

    def open(self):
        while self.file is None and not stop.is_set():
            try:
                self.file = os.open(glob.glob("/dev/ng*n1")[0], os.O_RDWR)
            except (OSError, IndexError):
                if not self.patient:
                    raise
                time.sleep(0.05)

    def run(self, opcode, key, length):
        """The status and the result of a command on the buffer."""
        self.open()
        if self.file is None:
            raise Lost
        low, high = struct.pack("<Q", key), b"kvplane "
        words = struct.unpack("<2I", low) + struct.unpack("<2I", high)
        moved = length if opcode in (STORE, RETRIEVE) else 0
        command = bytearray(COMMAND.pack(opcode, 0, 0, 1, words[0], words[1], 0, self.address if moved else 0, 0, moved,
                                         moved, 16, 0, 0, words[2], words[3], 0, 0, 0))
        try:
            status = fcntl.ioctl(self.file, IO64, command, True) & 0x7FF
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENXIO, errno.EIO, errno.EINTR, errno.EAGAIN, errno.EWOULDBLOCK):
                raise
            status = 0x3FF
        if status in PATH_ERRORS and self.patient:
            os.close(self.file)
            self.file = None
            time.sleep(0.01)
            raise Lost
        return status, COMMAND.unpack(command)[-1]


def value_of(key, version):
    """Its size follows from both as well."""
    size = SIZES[(key * 7 + version * 3) % len(SIZES)]
    at = (key * 7919 + version * 104729) % (2 << 20)
    return HEADER.pack(key, version) + NOISE[at:at + size - HEADER.size]


class Worker(threading.Thread):
    def __init__(self, number, options):
        super().__init__(daemon=True)
        self.number, self.options = number, options
        self.namespace = Namespace(not options.calm)
        self.random = random.Random(number)
        # By key: the version that was acknowledged last (0: none), and the last that was sent.
        self.keys = {}
        self.fresh = itertools.count(options.run << 40 | number << 32 | 1)
        self.done = self.lost = self.misses = 0
        self.problem = None
        self.since = time.monotonic()

    def run(self):
        os.sched_setaffinity(0, {self.number % os.cpu_count()})
        try:
            while not stop.is_set():
                self.since = time.monotonic()
                self.step()
        except Exception as error:  # told by the main thread
            self.problem = repr(error)
        self.since = None

    def expect(self, right, what):
        if not right:
            raise AssertionError(f"{what}, key {self.key:x}, acknowledged {self.acknowledged}, sent {self.sent}")

    def step(self):
        if len(self.keys) < 16:
            self.keys[next(self.fresh)] = (0, 0)
        self.key = self.random.choice(list(self.keys))
        self.acknowledged, self.sent = self.keys[self.key]
        act = self.random.choices((self.store, self.retrieve, self.exist, self.delete), (4, 6, 2, 1))[0]
        try:
            act()
            self.done += 1
        except Lost:
            self.lost += 1
            if act in (self.store, self.delete):
                del self.keys[self.key]

    def store(self):
        self.sent += 1
        value = value_of(self.key, self.sent)
        self.namespace.view[:len(value)] = value
        status, _ = self.namespace.run(STORE, self.key, len(value))
        self.expect(status == 0, f"Store ended with {status:x}h")
        self.keys[self.key] = (self.sent, self.sent)

    def retrieve(self):
        self.namespace.view[:64] = bytes(64)
        status, size = self.namespace.run(RETRIEVE, self.key, LONGEST)
        if self.is_miss(status, "Retrieve"):
            return
        version = HEADER.unpack(self.namespace.view[:HEADER.size])[1]
        oldest = 1 if self.options.forgets else max(self.acknowledged, 1)
        self.expect(oldest <= version <= self.sent, f"version {version} came back")
        value = value_of(self.key, version)
        self.expect(size == len(value) and self.namespace.view[:size] == value, f"wrong bytes of version {version}")

    def exist(self):
        self.is_miss(self.namespace.run(EXIST, self.key, 0)[0], "Exist")

    def is_miss(self, status, what):
        self.expect(status in (0, MISS), f"{what} ended with {status:x}h")
        self.misses += status == MISS
        allowed = self.acknowledged == 0 or self.options.forgets
        self.expect(status == 0 or allowed, f"{what} missed")
        self.expect(status == MISS or self.sent > 0, f"{what} found what was never stored")
        return status == MISS

    def delete(self):
        status, _ = self.namespace.run(DELETE, self.key, 0)
        self.is_miss(status, "Delete")
        if self.options.forgets:
            # What was deleted may be back after a crash.
            self.keys[self.key] = (0, self.sent)
        else:
            del self.keys[self.key]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=int, default=0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--calm", action="store_true")
    parser.add_argument("--forgets", action="store_true")
    parser.add_argument("progress")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    workers = [Worker(number, options) for number in range(options.threads)]
    for worker in workers:
        worker.start()
    problems = []
    while any(worker.is_alive() for worker in workers) and not problems:
        done = sum(worker.done for worker in workers)
        with open(options.progress + ".new", "w") as file:
            file.write(str(done))
        os.rename(options.progress + ".new", options.progress)
        problems = [worker.problem for worker in workers if worker.problem]
        since = [worker.since for worker in workers]
        if any(begun is not None and time.monotonic() - begun > PATIENCE for begun in since):
            problems.append(f"a command did not end within {PATIENCE} s")
        time.sleep(0.05)
    total = lambda name: sum(getattr(worker, name) for worker in workers)
    for problem in problems:
        print(problem)
    print(f"{total('done')} commands, {total('misses')} misses, {total('lost')} lost, {len(problems)} problems")
    sys.stdout.flush()
    # Threads that wait in the kernel are not waited for.
    os._exit(1 if problems else 0)


stop = threading.Event()
main()
