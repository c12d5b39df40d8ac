//! TLS: a certificate from files, which can be read again while serving.

use crate::config::small_file;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::TlsAcceptor;

/// Larger files are refused.
const FILE_BYTES: u64 = 1 << 20;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The two files do not fit each other, or the key is of a kind that is not supported.
    #[error(
        "{certificate} and {key}: {reason}; the first certificate must be the one that the key belongs to"
    )]
    Pair {
        /// The certificates.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        reason: rustls::Error,
    },
    /// The cryptography needs instructions that this processor lacks.
    #[error(
        "TLS needs a processor with AES and vector instructions of 2015 or later; put a proxy in front that speaks it"
    )]
    Processor,
    /// The settings contradict each other.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// TLS for a listener. Cloning shares it.
#[derive(Clone)]
pub struct Tls {
    pub(super) acceptor: TlsAcceptor,
    current: Arc<Current>,
}

/// The certificate that connections get from now on.
struct Current {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    loaded: RwLock<Arc<CertifiedKey>>,
}

impl Tls {
    /// From a PEM file of certificates, the server's own first, and one of its private key.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        if !graviola::util::is_cpu_supported() {
            return Err(TlsError::Processor);
        }
        let provider = Arc::new(rustls_graviola::default_provider());
        let current = Arc::new(Current {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            loaded: RwLock::new(load(certificate, key, &provider)?),
            provider: Arc::clone(&provider),
        });
        let resolver: Arc<Current> = Arc::clone(&current);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            current,
        })
    }

    /// Reads the files again, for connections from now on. After an error the old certificate stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let Current {
            certificate,
            key,
            provider,
            loaded,
        } = &*self.current;
        let read = load(certificate, key, provider)?;
        *loaded.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&loaded))
    }
}

/// Never the key.
impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate of {}", self.certificate.display())
    }
}

fn load(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let failed = |path: &Path, reason: String| TlsError::File {
        path: path.to_owned(),
        reason,
    };
    let pem = read(certificate)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| failed(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(failed(certificate, "no PEM certificate in it".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| failed(key, format!("no PEM private key in it ({error})")))?;
    let pair = CertifiedKey::from_der(chain, private, provider);
    pair.map(Arc::new).map_err(|reason| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        reason,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    small_file::read(path, FILE_BYTES).map_err(|reason| TlsError::File {
        path: path.to_owned(),
        reason,
    })
}
