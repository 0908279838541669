"""control_fuzz.py SOCKET COUNT: sends COUNT broken requests to a control socket, of every kind that
a line can be broken by, and checks that each is answered by a line of JSON or hung up on; then that
the run still answers a good one."""
import json
import random
import socket
import sys

PATH, COUNT = sys.argv[1], int(sys.argv[2])
GOOD = [b'{"op":"stats"}', b'{"op":"reclaim","bytes":4096}', b'{"op":"set-budget","bytes":67108864}',
        b'{"op":"subscribe","interval_ms":100}', b'{"op":"compact"}']
rng = random.Random(7)


def connect():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.settimeout(20)
    s.connect(PATH)
    return s


def mutate(line):
    b = bytearray(line)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(b) + 1)
        how = rng.randrange(5)
        if how == 0:
            b[at:at] = bytes([rng.randrange(256)])
        elif how == 1:
            del b[at:at + rng.randint(1, 4)]
        elif how == 2 and at < len(b):
            b[at] = rng.randrange(256)
        elif how == 3:
            b[at:at] = rng.choice([b"null", b"1e999", b"-1", b"99999999999999999999", b"\\u0000", b"{",
                                   b"[[[[[[[[", b'"', b"\x00", b"\xff\xfe"])
        else:
            b[at:at] = b[: rng.randrange(len(b) + 1)]
    return bytes(b).replace(b"\n", b" ")


def broken():
    """Bytes that hold no set-budget or reclaim that could be carried out by chance."""
    while True:
        line = mutate(rng.choice(GOOD))
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError):
            return line
        if not isinstance(parsed, dict) or parsed.get("op") not in ("set-budget", "reclaim", "subscribe"):
            return line


answered = hung_up = 0
connection = connect()
for i in range(COUNT):
    kind = rng.randrange(20)
    try:
        if kind == 0:  # too long, without an end
            connection.sendall(b"x" * 20000)
        elif kind == 1:  # half a request, and gone
            connection.sendall(rng.choice(GOOD)[: rng.randrange(1, 12)])
            connection.close()
            connection = connect()
            hung_up += 1
            continue
        elif kind == 2:  # very deep
            connection.sendall(b"[" * 4000 + b"\n")
        elif kind == 3:  # noise
            connection.sendall(rng.randbytes(rng.randrange(1, 3000)).replace(b"\n", b" ") + b"\n")
        else:
            connection.sendall(broken() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            more = connection.recv(65536)
            if not more:
                raise ConnectionResetError
            line += more
        for each in line.splitlines():
            assert isinstance(json.loads(each), dict), line
        answered += 1
    except (BrokenPipeError, ConnectionResetError):
        hung_up += 1
        connection.close()
        connection = connect()
connection.close()
assert answered > COUNT // 2, (answered, hung_up)

with connect() as s:  # a good one, in three pieces
    for piece in (b'{"op"', b':"sta', b'ts"}\n'):
        s.sendall(piece)
    line = b""
    while not line.endswith(b"\n"):
        line += s.recv(65536)
assert json.loads(line)["processes"], line
print(f"{answered} answered, {hung_up} hung up on")
