#!/usr/bin/env python3
"""What the sockets of this machine give: a server of values in memory that does nothing but send(2), to compare with.

It answers GET of Redis's protocol (RESP 2) with one of 256 values of so many bytes, whichever the key, and takes SET without
keeping anything, for one client at a time. The memory is the kernel's to copy from: no byte of a value passes through here.

    scripts/plain_values.py PORT [BYTES]      listens on 127.0.0.1; BYTES of each value [default: 1048576]
"""

import os
import socket
import sys

VALUES = 256


def take(stream, count):
    """Exactly so many bytes."""
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def arguments(stream):
    """The words of the next request."""
    first = stream.readline()
    if not first:
        raise EOFError
    words = []
    for _ in range(int(first[1:])):
        length = int(stream.readline()[1:])
        words.append(take(stream, length + 2)[:-2])
    return words


def send(connection, parts):
    """All of them, as often as it takes."""
    parts = [memoryview(part) for part in parts]
    while parts:
        sent = connection.sendmsg(parts)
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if parts:
            parts[0] = parts[0][sent:]


def serve(connection, memory, size):
    """One client, until it leaves."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = b"$%d\r\n" % size
    with connection, connection.makefile("rb") as stream:
        while True:
            words = arguments(stream)
            if words[0] == b"GET":
                at = int.from_bytes(words[1][-4:], "little") % VALUES * size
                send(connection, [head, memory[at : at + size], b"\r\n"])
            elif words[0] == b"SET":
                connection.sendall(b"+OK\r\n")
            else:
                connection.sendall(b"-ERR only GET and SET\r\n")


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    size = int(sys.argv[2]) if len(sys.argv) == 3 else 1 << 20
    memory = memoryview(bytearray(os.urandom(size)) * VALUES)
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        while True:
            connection, _ = listener.accept()
            try:
                serve(connection, memory, size)
            except (EOFError, ConnectionError):
                pass


main()
