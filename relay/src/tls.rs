//! TLS for both sides: what the relay shows to its clients, and how it looks at the primary's certificate.
//!
//! One provider (ring) everywhere. Trusts no authority but those that the configuration names. Errors name the file.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use thiserror::Error;

/// What is asked of the primary's TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// Not used.
    Off,
    /// Used if the server offers it; any certificate will do.
    #[default]
    Prefer,
    /// Demanded; any certificate will do.
    Require,
    /// Demanded; the certificate has to be signed by a known authority and to bear the name that was connected to.
    Verify,
}

impl FromStr for TlsMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify" => Ok(Self::Verify),
            _ => Err("allowed: \"off\", \"prefer\", \"require\", \"verify\"".to_owned()),
        }
    }
}

/// Why TLS could not be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{}: {what} can't be read: {error}", path.display())]
    Read {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file holds something else.
    #[error("{}: {what} is not understood: {detail}", path.display())]
    Content {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Certificate and key do not fit.
    #[error("{} and {}: not usable together: {error}", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        error: rustls::Error,
    },
    /// `verify` without authorities.
    #[error("tls = \"verify\" needs a ca_file")]
    NoAuthorities,
    /// A host that no certificate can bear.
    #[error("{0:?} is neither a DNS name nor an IP address: no certificate can be verified for it")]
    Name(String),
    /// The provider refuses.
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// Makes ring the process's provider, for libraries that ask for the default one. Repeating it changes nothing.
pub fn install_provider() {
    // Fails only if one is installed already.
    let _ = ring::default_provider().install_default();
}

/// What the relay shows to replicas and on HTTP: a chain of certificates and its key (PKCS #8, PKCS #1 or SEC 1), both PEM.
///
/// # Errors
/// Names the file that can't be read or understood, or both if they don't fit each other.
pub fn server_config(cert_file: &Path, key_file: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(cert_file, "the certificate")?;
    let what = "the private key";
    let pem = read(key_file, what)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| content(what, key_file, e))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::Pair { cert: cert_file.to_owned(), key: key_file.to_owned(), error })?;
    Ok(Arc::new(config))
}

/// How the relay connects to a server; `None` for [`TlsMode::Off`]. `ca_file` (PEM) is read for [`TlsMode::Verify`] only.
///
/// # Errors
/// Names the file that can't be read or understood; [`TlsError::NoAuthorities`] if it is wanted and missing.
pub fn client_config(mode: TlsMode, ca_file: Option<&Path>) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let config = match mode {
        TlsMode::Off => return Ok(None),
        TlsMode::Prefer | TlsMode::Require => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny { provider })).with_no_client_auth()
        }
        TlsMode::Verify => {
            let path = ca_file.ok_or(TlsError::NoAuthorities)?;
            let what = "the authority's certificate";
            let mut roots = RootCertStore::empty();
            for cert in certificates(path, what)? {
                roots.add(cert).map_err(|e| content(what, path, e))?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(Some(Arc::new(config)))
}

/// The name that the certificate of a server at `host` (without port or brackets) has to bear.
///
/// # Errors
/// [`TlsError::Name`] if it is neither a DNS name nor an IP address.
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
}

fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Read { what, path: path.to_owned(), error })
}

fn content(what: &'static str, path: &Path, detail: impl ToString) -> TlsError {
    TlsError::Content { what, path: path.to_owned(), detail: detail.to_string() }
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path, what)?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|e| content(what, path, e))?;
    if chain.is_empty() {
        return Err(content(what, path, "no PEM section CERTIFICATE is in it"));
    }
    Ok(chain)
}

/// Encrypts without knowing to whom, as database clients do by default.
#[derive(Debug)]
struct AcceptAny {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // A signature by a key that anybody may have made proves nothing; and servers generate certificates of version 1, which the
    // verification would not even read.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
