"""Receivers of alerts on this machine: a web server and a mail server, each in a thread of its own."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any


class WebReceiver(ThreadingHTTPServer):
    """Keeps the JSON that was posted. `status` is what it answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.status = 200
        self.offered = 0
        self.taken: list[dict[str, Any]] = []


class _Post(BaseHTTPRequestHandler):
    server: WebReceiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.offered += 1
        if self.server.status < 300:
            self.server.taken.append({**json.loads(body), "path": self.path})
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class MailReceiver(ThreadingTCPServer):
    """The part of SMTP (RFC 5321, and AUTH PLAIN) that a mail server needs to take a mail.

    With a `password`, who does not bring it is refused.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.password: str | None = None
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []


class _Session(StreamRequestHandler):
    server: MailReceiver

    def handle(self) -> None:
        self.say("220 here")
        known, recipients = self.server.password is None, []
        while line := self.rfile.readline():
            verb, _, rest = line.decode().strip().partition(" ")
            match verb.upper():
                case "EHLO":
                    self.say("250-here", "250 AUTH PLAIN")
                case "AUTH":
                    password = base64.b64decode(rest.split()[1]).split(b"\0")[2].decode()
                    known = password == self.server.password
                    self.say("235 welcome" if known else "535 5.7.8 wrong password")
                case "MAIL":
                    self.say("250 ok" if known else "530 5.7.0 authenticate first")
                case "RCPT":
                    recipients.append(rest.partition("<")[2].partition(">")[0])
                    self.say("250 ok")
                case "DATA":
                    self.say("354 go on")
                    self.receive(recipients)
                    recipients = []
                case "QUIT":
                    self.say("221 bye")
                    return
                case _:
                    self.say("250 ok")

    def receive(self, recipients: list[str]) -> None:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b"."))
        self.server.mails.append(message_from_bytes(b"".join(lines), policy=policy.default))
        self.server.recipients += recipients
        self.say("250 taken")

    def say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())


@contextmanager
def listening(server: Any) -> Iterator[Any]:
    """Serve until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
