"""A data hub that gives one key to whoever asks: `data_hub.py PORT KEY_HEX`. For upstream's code, in the bench."""

import http.server
import sys


class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        key = bytes.fromhex(sys.argv[2])
        self.send_response(200)
        self.send_header("content-length", str(len(key)))
        self.end_headers()
        self.wfile.write(key)

    def log_message(self, *_):
        pass


http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Hub).serve_forever()
