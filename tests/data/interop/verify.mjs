// Verifies requests with the official library. stdin: a JSON array of {secret, headers, body}, the body in base64.
// stdout: a JSON array of the payloads' _id or the errors.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { Webhook } = createRequire(join(process.cwd(), "verify.mjs"))("standardwebhooks");

function verify({ secret, headers, body }) {
  try {
    return new Webhook(secret).verify(Buffer.from(body, "base64"), headers)._id;
  } catch (error) {
    return error.message;
  }
}

console.log(JSON.stringify(JSON.parse(readFileSync(0)).map(verify)));
