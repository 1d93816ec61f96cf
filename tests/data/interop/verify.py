"""Verifies requests with the official library. stdin: a JSON array of {secret, headers, body}, the body in base64.
stdout: a JSON array of the payloads' _id or the errors."""

import base64
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError


def verify(request):
    try:
        return Webhook(request["secret"]).verify(base64.b64decode(request["body"]), request["headers"])["_id"]
    except WebhookVerificationError as error:
        return str(error)


print(json.dumps([verify(request) for request in json.load(sys.stdin)]))
