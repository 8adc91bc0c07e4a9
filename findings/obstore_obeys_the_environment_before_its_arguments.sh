#!/usr/bin/env bash
# obstore sends the requests of a store that was made with endpoint= to AWS_ENDPOINT_URL_S3 instead.
#
# It keeps two settings: the endpoint, and one for S3 alone that goes before it. The environment
# variable fills the second even where the caller gives the first, so that an argument in the code is
# overruled by a variable that another tool needs. AWS_ENDPOINT_URL, the
# general one, is overruled by the argument, as one would expect.
#
# A cure is the argument aws_endpoint_url_s3= where the code must decide.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check obstore==0.12.1
cat > "$folder/endpoint.py" <<'PYTHON'
"""Print which of two servers answers a store that names the first, by what the environment has."""

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

import obstore
from obstore.store import S3Store


def server(name: str) -> str:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(name)))
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Sun, 01 Nov 2026 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, *_: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{listening.server_port}"


argument, environment = server("the argument's"), server("the environment's")
keys = {"access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
found = {}
for variable in ("none", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
    os.environ.pop("AWS_ENDPOINT_URL", None)
    os.environ[variable] = environment
    store = S3Store("bucket", endpoint=argument, client_options={"allow_http": True}, **keys)
    found[variable] = bytes(obstore.get(store, "name").bytes()).decode()
    print(f"obstore {version('obstore')}, {variable} set: {found[variable]} server answers")
os.environ["AWS_ENDPOINT_URL_S3"] = environment
more = {"client_options": {"allow_http": True}, **keys}
store = S3Store("bucket", aws_endpoint_url_s3=argument, **more)
found["cure"] = bytes(obstore.get(store, "name").bytes()).decode()
print(f"with aws_endpoint_url_s3= in place of endpoint=: {found['cure']} server answers")
sys.exit(list(found.values()) != ["the argument's"] * 2 + ["the environment's", "the argument's"])
PYTHON
"$folder/venv/bin/python" "$folder/endpoint.py"
echo "As described: the variable for S3 goes before the argument."
