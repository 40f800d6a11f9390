"""TLS to each server by an authority of one's own, as docs/operations.md tells it."""

import datetime
import ipaddress
import os
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.faults.proxy import Proxy
from tests.stack.servers import free_base, running
from wafer.errors import RegistryError, StorageError, StoreError
from wafer.registry import Registry
from wafer.settings import Settings
from wafer.stack.parts import Place, mlflow_server, prefect_server
from wafer.storage import Storage
from wafer.store.wafers import open_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """The certificate of an authority, and what a server of 127.0.0.1 has that it vouches for."""
    folder = tmp_path_factory.mktemp("tls")
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", "server")]
    mine, here = keys[0].public_key(), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    extensions = (
        [x509.BasicConstraints(ca=True, path_length=0), x509.SubjectKeyIdentifier.from_public_key(mine)],
        [x509.SubjectAlternativeName([here]), x509.AuthorityKeyIdentifier.from_issuer_public_key(mine)],
    )
    for key, name, added in zip(keys, names, extensions, strict=True):
        made = x509.CertificateBuilder().subject_name(name).issuer_name(names[0]).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - day).not_valid_after(now + day)
        for extension in added:
            made = made.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        pem = made.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (folder / f"{name.rdns[0].rfc4514_string()[3:]}.pem").write_bytes(pem)
        (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "key.pem")
    return folder / "authority.pem", context


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Ports and folders for servers."""
    (tmp_path / "stack").mkdir()
    return Place(tmp_path / "stack", tmp_path, free_base())


def test_the_database(authority: tuple[Path, ssl.SSLContext], mongodb_url: str) -> None:
    """`tls` and `tlsCAFile` in its address; without the authority it is not trusted."""
    file, context = authority
    port = urlsplit(mongodb_url).port
    assert port is not None
    with Proxy(port, "any", context) as proxy:
        address = f"{mongodb_url.replace(f':{port}/', f':{proxy.port}/')}&tls=true"
        with open_store(Settings.read(mongodb_url=f"{address}&tlsCAFile={file}", mongodb_database="tls")) as store:
            assert store.counts()["wafers"] == 0
        untrusted = open_store(Settings.read(mongodb_url=address, mongodb_database="tls"))
        with pytest.raises(StoreError, match="certificate verify failed"), untrusted:
            pass


def test_the_bucket(
    authority: tuple[Path, ssl.SSLContext],
    s3_server: str,
    s3_address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`https://` in its address and the authority in AWS_CA_BUNDLE."""
    file, context = authority
    with Proxy(urlsplit(s3_server).port or 0, "any", context) as proxy:
        address = f"https://127.0.0.1:{proxy.port}"
        with pytest.raises(StorageError, match=r"certificate verify failed|SSL validation failed"):
            Storage("s3://tls-bucket/x", endpoint_url=address).check()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
        storage = Storage("s3://tls-bucket/x", endpoint_url=f"{address}/")  # clients are kept by their address
        storage.root.fs.mkdir("tls-bucket")
        storage.check()


def test_the_registry(authority: tuple[Path, ssl.SSLContext], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """`https://` in its address and the authority in MLFLOW_TRACKING_SERVER_CERT_PATH."""
    file, context = authority
    with running(mlflow_server(place), place), Proxy(place.port("MLflow server"), "any", context) as proxy:
        address = f"https://127.0.0.1:{proxy.port}"
        with pytest.raises(RegistryError, match="no trusted TLS connection could be made"):
            Registry(address).champion()
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(file))
        assert Registry(address).champion() is None


def test_prefect(authority: tuple[Path, ssl.SSLContext], place: Place) -> None:
    """`https://` in PREFECT_API_URL and the authority in PREFECT_API_SSL_CERT_FILE."""
    file, context = authority
    code = "from prefect import get_client\nwith get_client(sync_client=True) as c: print(c.hello().status_code)"
    with running(prefect_server(place, None), place), Proxy(place.port("Prefect server"), "any", context) as proxy:
        env = {**os.environ, "PREFECT_API_URL": f"https://127.0.0.1:{proxy.port}/api"}
        for trusted in ({}, {"PREFECT_API_SSL_CERT_FILE": str(file)}):
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, env={**env, **trusted}, capture_output=True, text=True, check=False)
            assert (done.stdout == "200\n") == bool(trusted), done.stderr
            assert trusted or "CERTIFICATE_VERIFY_FAILED" in done.stderr
