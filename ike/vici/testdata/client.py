"""A vici client after the text of the protocol alone; it shares nothing with the server.

Usage: client.py SOCKET. Each line of the standard input is a JSON request
{"command": ..., "message": {...}, "event": ...}; each line of the output is the
JSON answer {"reply": {...}, "events": [...]}, {"unknown": "command"} or
{"unknown": "event"}. Values are text; octets beyond ASCII come and go as Latin-1.
"""

import json
import socket
import struct
import sys

CMD_REQUEST, CMD_RESPONSE, CMD_UNKNOWN = 0, 1, 2
EVENT_REGISTER, EVENT_UNREGISTER, EVENT_CONFIRM, EVENT_UNKNOWN, EVENT = 3, 4, 5, 6, 7
SECTION_START, SECTION_END, KEY_VALUE, LIST_START, LIST_ITEM, LIST_END = 1, 2, 3, 4, 5, 6


def name(text):
    raw = text.encode("latin-1")
    return struct.pack("!B", len(raw)) + raw


def value(text):
    raw = text.encode("latin-1")
    return struct.pack("!H", len(raw)) + raw


def encode(message):
    out = b""
    for key, v in message.items():
        if isinstance(v, dict):
            out += bytes([SECTION_START]) + name(key) + encode(v) + bytes([SECTION_END])
        elif isinstance(v, list):
            items = b"".join(bytes([LIST_ITEM]) + value(item) for item in v)
            out += bytes([LIST_START]) + name(key) + items + bytes([LIST_END])
        else:
            out += bytes([KEY_VALUE]) + name(key) + value(v)
    return out


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if self.at + n > len(self.data):
            raise ValueError("the message ends too early")
        part = self.data[self.at : self.at + n]
        self.at += n
        return part

    def name(self):
        return self.take(self.take(1)[0]).decode("latin-1")

    def value(self):
        (n,) = struct.unpack("!H", self.take(2))
        return self.take(n).decode("latin-1")

    def message(self, within=False):
        out = {}
        while self.at < len(self.data):
            kind = self.take(1)[0]
            if kind == SECTION_END and within:
                return out
            if kind == SECTION_START:
                key = self.name()
                out[key] = self.message(True)
            elif kind == KEY_VALUE:
                key = self.name()
                out[key] = self.value()
            elif kind == LIST_START:
                key = self.name()
                out[key] = []
                while self.take(1)[0] == LIST_ITEM:
                    out[key].append(self.value())
                if self.data[self.at - 1] != LIST_END:
                    raise ValueError("a list ends in something else")
            else:
                raise ValueError("an element of type %d" % kind)
        if within:
            raise ValueError("a section does not end")
        return out


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)

    def exactly(self, n):
        out = b""
        while len(out) < n:
            part = self.socket.recv(n - len(out))
            if not part:
                raise ValueError("the server has closed the connection")
            out += part
        return out

    def send(self, kind, about, body=b""):
        packet = bytes([kind]) + name(about) + body
        self.socket.sendall(struct.pack("!I", len(packet)) + packet)

    def receive(self, events):
        while True:
            (n,) = struct.unpack("!I", self.exactly(4))
            r = Reader(self.exactly(n))
            kind = r.take(1)[0]
            if kind != EVENT:
                return kind, r
            r.name()
            events.append(r.message())

    def call(self, request):
        events, event = [], request.get("event")
        if event:
            self.send(EVENT_REGISTER, event)
            if self.receive(events)[0] == EVENT_UNKNOWN:
                return {"unknown": "event"}
        self.send(CMD_REQUEST, request["command"], encode(request.get("message", {})))
        kind, r = self.receive(events)
        if kind == CMD_UNKNOWN:
            return {"unknown": "command"}
        reply = r.message()
        if event:
            self.send(EVENT_UNREGISTER, event)
            self.receive(events)
        return {"reply": reply, "events": events}


client = Client(sys.argv[1])
for line in sys.stdin:
    print(json.dumps(client.call(json.loads(line))), flush=True)
