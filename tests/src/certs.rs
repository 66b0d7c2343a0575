//! Certificates for tests: an authority and a certificate for 127.0.0.1 and localhost, made anew in each bed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// Paths of PEM files.
#[derive(Debug, Clone)]
pub struct Certs {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The server's certificate.
    pub cert: PathBuf,
    /// The server's private key.
    pub key: PathBuf,
}

impl Certs {
    /// Makes a new authority and a server certificate in `dir`, with `stem` as the beginning of the file names.
    pub fn create(dir: &Path, stem: &str) -> Result<Self> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, format!("{stem} test authority"));
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let mut server = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        server.distinguished_name.push(DnType::CommonName, "127.0.0.1");
        let cert = server.signed_by(&key, &authority)?;
        let write = |ending: &str, text: String| {
            let path = dir.join(format!("{stem}.{ending}"));
            fs::write(&path, text).with_context(|| format!("can't write {}", path.display())).map(|()| path)
        };
        Ok(Self {
            ca: write("ca", authority.pem())?,
            cert: write("crt", cert.pem())?,
            key: write("key", key.serialize_pem())?,
        })
    }
}
