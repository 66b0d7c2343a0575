//! Certificates for tests: an authority and what it signs, made anew in each bed.

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

/// Somebody who signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    ca: PathBuf,
}

impl Authority {
    /// Makes a new one; it keeps its certificate, and those that it signs, in `dir`, with `stem` as the beginning of its own file's name.
    pub fn create(dir: &Path, stem: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, format!("{stem} test authority"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let ca = write(dir, stem, "ca", &issuer.pem())?;
        Ok(Self { issuer, dir: dir.to_owned(), ca })
    }

    /// Signs a certificate for these names and addresses.
    pub fn sign(&self, stem: &str, names: &[String]) -> Result<Certs> {
        self.sign_params(stem, CertificateParams::new(names.to_vec())?, names)
    }

    /// As [`Authority::sign`], but it has expired long ago.
    pub fn sign_expired(&self, stem: &str, names: &[String]) -> Result<Certs> {
        let mut params = CertificateParams::new(names.to_vec())?;
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.sign_params(stem, params, names)
    }

    fn sign_params(&self, stem: &str, mut params: CertificateParams, names: &[String]) -> Result<Certs> {
        let key = KeyPair::generate()?;
        params.distinguished_name.push(DnType::CommonName, names.first().map_or(stem, String::as_str));
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Certs {
            ca: self.ca.clone(),
            cert: write(&self.dir, stem, "crt", &cert.pem())?,
            key: write(&self.dir, stem, "key", &key.serialize_pem())?,
        })
    }
}

impl Certs {
    /// Makes a new authority and a certificate for 127.0.0.1 and localhost in `dir`, with `stem` as the beginning of the file names.
    pub fn create(dir: &Path, stem: &str) -> Result<Self> {
        Authority::create(dir, stem)?.sign(stem, &["127.0.0.1", "localhost"].map(str::to_owned))
    }

    /// A copy under another name, to be replaced at run time.
    pub fn copy(&self, stem: &str) -> Result<Self> {
        let copy = Self {
            ca: self.ca.clone(),
            cert: self.cert.with_file_name(format!("{stem}.crt")),
            key: self.key.with_file_name(format!("{stem}.key")),
        };
        copy.replace_by(self)?;
        Ok(copy)
    }

    /// Certificate and key become those of `other`.
    pub fn replace_by(&self, other: &Self) -> Result<()> {
        for (from, to) in [(&other.cert, &self.cert), (&other.key, &self.key)] {
            fs::copy(from, to).with_context(|| format!("can't copy {} to {}", from.display(), to.display()))?;
        }
        Ok(())
    }
}

fn write(dir: &Path, stem: &str, ending: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(format!("{stem}.{ending}"));
    fs::write(&path, text).with_context(|| format!("can't write {}", path.display())).map(|()| path)
}
