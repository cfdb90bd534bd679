"""Sends through libnbd, with its own checks off, what no honest client sends.

usage: strictless.py URI-OF-IMAGE URI-OF-SNAPSHOT
The image has 64 MiB and minimum block size 4096; its first MiB reads as 0xAB. Every case
prints one line. After every case the store must still give the right bytes, on the same
connection where the protocol demands that it survives.
"""
import errno
import sys

import nbd

MIB = 1 << 20
SIZE = 64 * MIB
GOOD = b"\xab" * 4096
image, snapshot = sys.argv[1:3]
failures = 0


def connect(uri=image, strict=0, **settings):
    h = nbd.NBD()
    h.set_strict_mode(strict)
    for name, value in settings.items():
        getattr(h, name)(value)
    h.connect_uri(uri)
    return h


def report(name, problem, detail=""):
    global failures
    if problem:
        failures += 1
    print("%s %s%s" % ("FAIL" if problem else "ok  ", name, ": " + (problem or detail) if problem or detail else ""))


def expect(name, call, errnos, dropped=False, h=None):
    """call(h) must fail with one of errnos (None: may succeed); the connection must
    live on, unless it may be dropped."""
    h = h or connect()
    detail = ""
    try:
        call(h)
        if None not in errnos:
            return report(name, "it succeeded")
        detail = "served"
    except nbd.Error as e:
        detail = errno.errorcode.get(e.errnum or 0, str(e.errnum))
        lost = h.aio_is_dead() or h.aio_is_closed()
        if lost and not dropped:
            return report(name, "the connection was lost (%s)" % e.string)
        if not lost and e.errnum not in errnos:
            return report(name, "answered %s" % e.string)
        if lost:
            detail = "connection dropped"
            h = connect()
    try:
        if bytes(h.pread(4096, 0)) != GOOD:
            return report(name, "afterwards the image has other bytes")
    except nbd.Error as e:
        return report(name, "afterwards a read fails: %s" % e.string)
    report(name, None, detail)


def ranges():
    inv, end = {errno.EINVAL}, {errno.ENOSPC, errno.EINVAL}
    for name, off in (("at the end", SIZE), ("beyond", 2 * SIZE), ("at 2^62", 1 << 62),
                      ("at 2^63-4096", (1 << 63) - 4096), ("at 2^64-4096", (1 << 64) - 4096)):
        expect("read " + name, lambda h: h.pread(4096, off), inv)
        expect("write " + name, lambda h: h.pwrite(b"x" * 4096, off), end)
        expect("trim " + name, lambda h: h.trim(4096, off), inv)
        expect("zero " + name, lambda h: h.zero(4096, off), end)
        expect("cache " + name, lambda h: h.cache(4096, off), inv)
    expect("read across the end", lambda h: h.pread(8192, SIZE - 4096), inv)
    expect("write across the end", lambda h: h.pwrite(b"x" * 8192, SIZE - 4096), end)
    expect("zero across the end", lambda h: h.zero(8192, SIZE - 4096), end)
    expect("trim 2^32-4096 bytes", lambda h: h.trim((1 << 32) - 4096, 4096), inv)
    expect("zero 2^32-1 bytes", lambda h: h.zero((1 << 32) - 1, 4096), end)


def alignment():
    # The minimum block size was announced, so these are the client's fault.
    inv = {errno.EINVAL}
    expect("unaligned read offset", lambda h: h.pread(4096, 1), inv | {None})
    expect("unaligned read length", lambda h: h.pread(4095, 0), inv | {None})
    expect("unaligned write", lambda h: h.pwrite(b"\xab" * 511, 513), inv | {None})
    expect("unaligned zero", lambda h: h.zero(1, SIZE - 1), inv | {None})
    expect("unaligned trim", lambda h: h.trim(1, SIZE - 1), inv | {None})


def sizes():
    big = {errno.EINVAL, errno.EOVERFLOW, errno.ENOMEM}
    expect("read of 32 MiB", lambda h: h.pread(32 * MIB, 0), {None})
    expect("write of 32 MiB", lambda h: h.pwrite(bytes(32 * MIB), 32 * MIB), {None})
    expect("read of 40 MiB", lambda h: h.pread(40 * MIB, 0), big, dropped=True)
    expect("write of 40 MiB", lambda h: h.pwrite(bytes(40 * MIB), 16 * MIB), big, dropped=True)
    for name, call in (("read", lambda h: h.pread(0, 0)), ("write", lambda h: h.pwrite(b"", 0)),
                       ("trim", lambda h: h.trim(0, 0)), ("zero", lambda h: h.zero(0, 0)),
                       ("cache", lambda h: h.cache(0, 0)), ("block status", lambda h: status(h, 0, 0))):
        expect("%s of nothing" % name, call, {errno.EINVAL, None})


def status(h, length, off):
    h.block_status(length, off, lambda *a: 0)


def flags():
    inv = {errno.EINVAL}
    for bit in range(5, 16):
        f = 1 << bit
        expect("read with flag %#x" % f, lambda h: h.pread(4096, 0, flags=f), inv)
        expect("write with flag %#x" % f, lambda h: h.pwrite(b"x" * 4096, 0, flags=f), inv)
    expect("write with NO_HOLE", lambda h: h.pwrite(b"x" * 4096, 0, flags=nbd.CMD_FLAG_NO_HOLE), inv)
    expect("trim with FAST_ZERO", lambda h: h.trim(4096, MIB, flags=nbd.CMD_FLAG_FAST_ZERO), inv)
    expect("flush with REQ_ONE", lambda h: h.flush(flags=nbd.CMD_FLAG_REQ_ONE), inv)
    expect("read with FUA", lambda h: h.pread(4096, 0, flags=nbd.CMD_FLAG_FUA), {None, errno.EINVAL})
    expect("read with DF", lambda h: h.pread(MIB, 0, flags=nbd.CMD_FLAG_DF), {None, errno.EOVERFLOW})
    expect("DF without structured replies", lambda h: h.pread(4096, 0, flags=nbd.CMD_FLAG_DF), inv | {None},
           h=connect(set_request_structured_replies=False))


def contexts():
    inv = {errno.EINVAL}
    expect("block status never negotiated", lambda h: status(h, 4096, 0), inv)
    expect("block status without structured replies", lambda h: status(h, 4096, 0), inv,
           h=connect(set_request_structured_replies=False, add_meta_context="base:allocation"))
    expect("block status at the end", lambda h: status(h, 4096, SIZE), inv,
           h=connect(add_meta_context="base:allocation"))
    for name in ("nosuch:context", "base:", "qemu:dirty-bitmap:", "qemu:dirty-bitmap:nosuch", ":", "x" * 4000):
        h = connect(add_meta_context=name)
        if h.can_meta_context(name):
            report("context %.20s" % name, "was granted")
        else:
            report("context %.20s" % name, None, "not granted")
    many = nbd.NBD()
    for i in range(1000):
        many.add_meta_context("nosuch:%d" % i)
    many.add_meta_context("base:allocation")
    many.connect_uri(image)
    report("1001 contexts", None if bytes(many.pread(4096, 0)) == GOOD else "wrong bytes")


def negotiating():
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(image)
    return h


def options():
    h = negotiating()
    good = h.get_export_name()
    for name in ("", "nosuch", "x" * 4096, "a/b", "../x", "\u00e9", "img\n"):
        h.set_export_name(name)
        for option in (h.opt_info, h.opt_go):
            try:
                option()
                return report("export %.20r" % name, "is served")
            except nbd.Error as e:
                lost = h.aio_is_dead() or h.aio_is_closed()
                report("export %.20r" % name, "the connection was lost" if lost else None, "refused")
    h.set_export_name(good)
    names = []
    h.opt_list(lambda n, d: names.append(n))
    h.opt_go()
    report("options, then GO", None if bytes(h.pread(4096, 0)) == GOOD else "wrong bytes", "%d names" % len(names))

    h = negotiating()
    h.opt_abort()
    report("ABORT", None, "closed")
    h = connect(set_full_info=True)
    report("full info", None if bytes(h.pread(4096, 0)) == GOOD else "wrong bytes")


def read_only():
    perm = {errno.EPERM, errno.EROFS}
    for name, call in (("write", lambda h: h.pwrite(b"x" * 4096, 0)), ("zero", lambda h: h.zero(4096, 0)),
                       ("trim", lambda h: h.trim(4096, 0)), ("write with FUA", lambda h: h.pwrite(b"x" * 4096, 0, flags=1))):
        expect("%s to a snapshot" % name, call, perm, h=connect(snapshot))


first = connect()
first.pwrite(b"\xab" * MIB, 0)
first.flush()
for group in (ranges, alignment, sizes, flags, contexts, options, read_only):
    group()
print("%d failures" % failures)
sys.exit(1 if failures else 0)
