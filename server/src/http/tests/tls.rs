//! TLS, with a certificate that is renewed while the server runs.

use super::client::soon;
use super::*;
use crate::http::{Limits, Listeners, Tls};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Self-signed, for localhost, until 2126; `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes
/// -days 36500 -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE`.
fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/http/tests/tls")
        .join(name)
}

struct Secure {
    address: SocketAddr,
    tls: Tls,
    folder: tempfile::TempDir,
    _stop: mpsc::Sender<()>,
}

impl Secure {
    async fn start(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secure = |name| folder.path().join(name);
        install("old", folder.path());
        let tls = Tls::from_files(&secure("cert.pem"), &secure("key.pem")).unwrap();
        let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = clients.local_addr().unwrap();
        let listeners = Listeners {
            clients,
            tls: Some(tls.clone()),
            metrics: None,
        };
        let config = HttpConfig {
            limits,
            ..HttpConfig::default()
        };
        let (stop, stops) = mpsc::channel(2);
        let (slot, metrics) = (ModelSlot::new(), MetricsHandle::new());
        tokio::spawn(serve_until(listeners, config, slot, metrics, stops));
        Self {
            address,
            tls,
            folder,
            _stop: stop,
        }
    }

    /// The answer to `GET /health` for a client that trusts this certificate alone.
    async fn health(&self, trusted: &str) -> Result<String, std::io::Error> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(pem(trusted)).unwrap())
            .unwrap();
        let provider = Arc::new(rustls_graviola::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = soon(connector.connect(name, stream)).await?;
        let request = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut reply = String::new();
        soon(stream.read_to_string(&mut reply)).await?;
        Ok(reply)
    }
}

fn install(which: &str, folder: &Path) {
    for file in ["cert.pem", "key.pem"] {
        std::fs::copy(pem(&format!("{which}.{file}")), folder.join(file)).unwrap();
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_while_serving() {
    let server = Secure::start(Limits::default()).await;
    let reply = server.health("old.cert.pem").await.unwrap();
    assert!(
        reply.starts_with("HTTP/1.1 200") && reply.contains(r#"{"status":"ok"}"#),
        "{reply}"
    );
    assert!(server.health("new.cert.pem").await.is_err());
    install("new", server.folder.path());
    server.tls.reload().unwrap();
    assert!(server.health("new.cert.pem").await.is_ok());
    assert!(server.health("old.cert.pem").await.is_err());
    // Half of a renewal: the certificate without its key.
    install("old", server.folder.path());
    std::fs::copy(pem("new.key.pem"), server.folder.path().join("key.pem")).unwrap();
    let error = server.tls.reload().unwrap_err().to_string();
    assert!(
        error.contains("key.pem") && error.contains("cert.pem"),
        "{error}"
    );
    assert!(server.health("new.cert.pem").await.is_ok());
}

#[tokio::test]
async fn plain_text_and_silence_are_no_handshake() {
    let server = Secure::start(Limits {
        receive_timeout: Duration::from_millis(50),
        ..Limits::default()
    })
    .await;
    let mut silent = Connection::keep_alive(server.address).await;
    let mut plain = Connection::keep_alive(server.address).await;
    plain
        .write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    plain.until_closed().await;
    silent.until_closed().await;
    assert!(server.health("old.cert.pem").await.is_ok());
}

#[test]
fn files_that_do_not_fit_are_named() {
    let refused = |certificate: &str, key: &str| {
        Tls::from_files(&pem(certificate), &pem(key))
            .err()
            .unwrap()
            .to_string()
    };
    for (certificate, key, named) in [
        ("old.cert.pem", "new.key.pem", "new.key.pem"),
        ("old.key.pem", "old.key.pem", "no PEM certificate"),
        ("old.cert.pem", "old.cert.pem", "no PEM private key"),
        ("nowhere.pem", "old.key.pem", "nowhere.pem"),
    ] {
        let error = refused(certificate, key);
        assert!(error.contains(named), "{error}");
    }
}
