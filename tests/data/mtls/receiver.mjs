// A receiver over HTTP/2 that demands a certificate of its clients, and prints whose it was.
import { readFileSync } from "node:fs";
import { createSecureServer } from "node:http2";

const [key, cert, ca] = ["server-key.pem", "server.pem", "clients.pem"].map((name) => readFileSync(`${process.argv[2]}/${name}`));
const server = createSecureServer({ key, cert, ca, requestCert: true, rejectUnauthorized: true });
server.on("request", (request, response) => {
  const { CN } = request.stream.session.socket.getPeerCertificate().subject;
  request.resume().on("end", () => {
    console.log(`HTTP/${request.httpVersion} ${request.url} ${CN}`);
    response.writeHead(204).end();
  });
});
server.listen(0, "127.0.0.1", () => console.log(`listening on port ${server.address().port}`));
