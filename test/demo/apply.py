"""Writes a delta to an export through libnbd: apply.py URI DELTA

A delta is a sequence of records: offset and length (8 bytes each, big endian), a kind byte, and
for kind 'D' the data. Kind 'Z' ranges became zero because files were deleted; they are trimmed,
as a file system would.
"""
import struct
import sys

import nbd

uri, path = sys.argv[1:3]
h = nbd.NBD()
h.connect_uri(uri)
with open(path, "rb") as delta:
    while head := delta.read(17):
        offset, length, kind = struct.unpack(">QQc", head)
        if kind == b"D":
            h.pwrite(delta.read(length), offset)
        else:
            h.trim(length, offset)
h.flush()
h.shutdown()
