"""An FTP server for the tests: ftp_server.py ADDRESS PORT FOLDER [tls]. Anyone may read and write; says "ready"."""

import pathlib
import sys

from OpenSSL import crypto
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer


def certificate(folder):
    """A key and its own certificate in one file."""
    key = crypto.PKey()
    key.generate_key(crypto.TYPE_RSA, 2048)
    made = crypto.X509()
    made.get_subject().CN = "ftp.example.test"
    made.set_issuer(made.get_subject())
    made.gmtime_adj_notBefore(0)
    made.gmtime_adj_notAfter(86400)
    made.set_pubkey(key)
    made.sign(key, "sha256")
    file = pathlib.Path(folder).with_suffix(".pem")
    file.write_bytes(crypto.dump_privatekey(crypto.FILETYPE_PEM, key) + crypto.dump_certificate(crypto.FILETYPE_PEM, made))
    return str(file)


def main(address, port, folder, *tls):
    authorizer = DummyAuthorizer()
    authorizer.add_user("u", "p", folder, perm="elradfmwMT")
    handler = TLS_FTPHandler if tls else FTPHandler
    if tls:
        handler.certfile = certificate(folder)
    handler.authorizer = authorizer
    # Below masqd's range: every port that it names has to be changed.
    handler.passive_ports = range(2000, 2020)
    server = FTPServer((address, int(port)), handler)
    print("ready", flush=True)
    server.serve_forever()


main(*sys.argv[1:])
