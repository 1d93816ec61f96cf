"""A receiver over HTTP/1.1 that demands a certificate of its clients, and prints whose it was."""
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder = sys.argv[1]


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        subject = dict(part[0] for part in self.connection.getpeercert()["subject"])
        sys.stdout.write(f"{self.request_version} {self.path} {subject['commonName']}\n")
        sys.stdout.flush()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server-key.pem")
context.load_verify_locations(f"{folder}/clients.pem")
context.verify_mode = ssl.CERT_REQUIRED


class Server(ThreadingHTTPServer):
    # The handshake belongs to its connection: a client that fails it stops nobody else.
    def finish_request(self, request, client_address):
        super().finish_request(context.wrap_socket(request, server_side=True), client_address)

    def handle_error(self, request, client_address):
        pass


server = Server(("127.0.0.1", 0), Receiver)
print(f"listening on port {server.server_port}", flush=True)
server.serve_forever()
