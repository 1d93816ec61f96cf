"""A mail server for the tests. Prints its port, then each e-mail that it takes, a line of JSON each.

argv[1] is JSON: `replies` (by address, the replies to RCPT, each given once; then it takes the e-mail), `refused` (by how the address
begins, the reply to every RCPT), `greetings` (what the first connections are closed with), `identity` (files of a certificate and its key),
`ehlo` (the reply to EHLO, if it is refused), `implicit` (TLS from the first byte, not by STARTTLS), `login` (user and password, then asked for),
`refused_logins` (that many are refused first), `takes` (seconds that it takes for an e-mail).
"""

import asyncio
import email
import email.policy
import json
import logging
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

logging.disable(logging.WARNING)
options = json.loads(sys.argv[1])
replies = options.get("replies", {})
greetings = options.get("greetings", [])
logins = {"refused": options.get("refused_logins", 0)}
connections = set()


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        if replies.get(address):
            return replies[address].pop(0)
        for prefix, reply in options.get("refused", {}).items():
            if address.startswith(prefix):
                return reply
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        await asyncio.sleep(options.get("takes", 0))
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        taken = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "headers": [[name, str(value)] for name, value in message.items()],
            "text": message.get_content(),
            "connections": len(connections),
        }
        print(json.dumps(taken), flush=True)
        return "250 2.0.0 OK"


class Server(SMTP):
    def connection_made(self, transport):
        connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, error):
        connections.discard(self)
        super().connection_lost(error)

    async def _handle_client(self):
        if greetings:
            await self.push(greetings.pop(0))
            self.transport.close()
        else:
            await super()._handle_client()

    async def smtp_EHLO(self, hostname):
        if "ehlo" in options:
            await self.push(options["ehlo"])
        else:
            await super().smtp_EHLO(hostname)


def authenticate(server, session, envelope, mechanism, data):
    if logins["refused"]:
        logins["refused"] -= 1
        return AuthResult(success=False, handled=False)
    success = [data.login.decode(), data.password.decode()] == options["login"]
    return AuthResult(success=success, handled=success)


async def main():
    context = None
    if "identity" in options:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*options["identity"])
    implicit = options.get("implicit", False)
    settings = {"hostname": "mail.test", "tls_context": None if implicit else context}
    if "login" in options:
        # aiosmtpd knows of TLS only by STARTTLS.
        settings |= {"auth_required": True, "auth_require_tls": not implicit, "authenticator": authenticate}
    server = await asyncio.get_running_loop().create_server(
        lambda: Server(Handler(), **settings), "127.0.0.1", 0, ssl=context if implicit else None
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
