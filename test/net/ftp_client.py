"""An FTP client for the tests: ftp_client.py HOST PORT active|passive plain|tls ROUNDS. Stores, fetches and lists on one control connection."""

import ftplib
import io
import random
import sys


def main(host, port, way, security, rounds):
    ftp = ftplib.FTP_TLS() if security == "tls" else ftplib.FTP()
    # The server's word for where it listens, not the address of the control connection.
    ftp.trust_server_pasv_ipv4_address = True
    ftp.connect(host, int(port))
    ftp.login("u", "p")
    ftp.set_pasv(way == "passive")
    for number in range(int(rounds)):
        text = random.Random(number).randbytes(20000 * number + 1)
        ftp.storbinary(f"STOR {number}", io.BytesIO(text))
        back = io.BytesIO()
        ftp.retrbinary(f"RETR {number}", back.write)
        assert back.getvalue() == text, number
        names = []
        ftp.retrlines("NLST", names.append)
        assert str(number) in names, names
    ftp.quit()
    print("done", rounds)


main(*sys.argv[1:])
