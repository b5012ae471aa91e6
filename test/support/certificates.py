"""Certificates of a test's server, signed by themselves, made by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def self_signed(folder: Path, name: str, host: str = "IP:127.0.0.1") -> tuple[str, str]:
    """Files of a certificate for this host and its key; the certificate is its own authority."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is absent: apt install openssl")
    cert, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={host}"]
    command = ["openssl", "req", "-x509", *kind, *names, "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key
