"""A client that reads and writes while everything else happens: live.py URI SEED START LENGTH OTHER

It writes random blocks in [START, START+LENGTH) of the export, knows what each must hold, and
checks every block that it reads. Below START nobody writes, so those bytes must be the ones
of the file OTHER for ever. When the store goes away it reconnects and repeats the one request
that was not answered. At the end of its standard input it checks everything once more, writes
what the range must hold to standard output, and its numbers to standard error.
"""
import random
import select
import sys
import time

import nbd

BLOCK = 4096
PATIENCE = 60
uri, seed, start, length, other = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), open(sys.argv[5], "rb")
rng = random.Random(seed)
reads = writes = reconnects = 0
h = None


def connect():
    global h
    deadline = time.monotonic() + PATIENCE
    while True:
        h = nbd.NBD()
        try:
            return h.connect_uri(uri)
        except nbd.Error:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def request(call):
    global reconnects
    while True:
        try:
            return call(h)
        except nbd.Error:
            if not (h.aio_is_dead() or h.aio_is_closed()):
                raise
            reconnects += 1
            connect()


def check(offset, n, want):
    if bytes(request(lambda h: h.pread(n, offset))) != want:
        sys.exit("live: %d bytes at %d are not what was written there" % (n, offset))


connect()
model = bytearray(request(lambda h: h.pread(length, start)))
while not select.select([sys.stdin], [], [], 0)[0]:
    at = rng.randrange(length // BLOCK) * BLOCK
    if rng.random() < 0.5:
        data = rng.randbytes(BLOCK)
        request(lambda h: h.pwrite(data, start + at))
        model[at:at + BLOCK] = data
        writes += 1
    elif rng.random() < 0.5:
        check(start + at, BLOCK, model[at:at + BLOCK])
        reads += 1
    else:
        at = rng.randrange(start // BLOCK) * BLOCK
        other.seek(at)
        check(at, BLOCK, other.read(BLOCK))
        reads += 1
    if rng.random() < 0.001:
        request(lambda h: h.flush())
check(start, length, model)
request(lambda h: h.flush())
h.shutdown()
sys.stdout.buffer.write(model)
print("%d %d %d" % (reads, writes, reconnects), file=sys.stderr)
