//! The API server: paths, verbs, tokens, TLS. One thread a connection; ends with its last handle.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::http::{self, Request};
use super::objects::{Kind, Objects, Refused};
use super::rights::Rights;

/// How often is looked for connections and for the end.
const TURN: Duration = Duration::from_millis(2);
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(120);

/// A running API server.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    ca: String,
}

struct Shared {
    objects: Objects,
    rights: Mutex<Rights>,
    /// Requests that were refused by [`Rights`] or that nobody serves, for tests to look at.
    refused: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl ApiServer {
    /// Serves HTTPS at `listener`, which is reached at `ip` by others.
    pub fn start(listener: TcpListener, ip: IpAddr) -> Result<Self> {
        let address = listener.local_addr().context("a listener without address")?;
        let (ca, tls) = certificate(ip)?;
        let shared = Arc::new(Shared {
            objects: Objects::default(),
            rights: Mutex::default(),
            refused: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let (tls, server) = (Arc::new(tls), Arc::clone(&shared));
        listener.set_nonblocking(true)?;
        thread::Builder::new().name("kube-api".into()).spawn(move || {
            while !server.stop.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(TURN);
                    continue;
                };
                let (server, tls) = (Arc::clone(&server), Arc::clone(&tls));
                thread::spawn(move || server.connection(stream, tls));
            }
        })?;
        Ok(Self { shared, address, ca })
    }

    /// Its objects.
    pub fn objects(&self) -> &Objects {
        &self.shared.objects
    }

    /// Who may do what.
    pub fn rights(&self) -> MutexGuard<'_, Rights> {
        self.shared.rights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The authority of its certificate, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// What was refused so far for want of a right, or because it is not served here.
    pub fn refused(&self) -> Vec<String> {
        self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn connection(&self, stream: TcpStream, tls: Arc<ServerConfig>) {
        let prepared = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(IDLE)));
        let _fine_without = prepared.and_then(|()| stream.set_nodelay(true));
        let Ok(session) = ServerConnection::new(tls) else { return };
        // A peer that goes away in the middle is no failure of the server.
        let _ended = self.requests(StreamOwned::new(session, stream));
    }

    fn requests<S: Read + Write>(&self, stream: S) -> Result<()> {
        http::serve(stream, |request| match self.answer(request) {
            Ok(object) => (200, object),
            Err(refused) => {
                if matches!(refused.code, 401 | 403 | 405) || refused.reason == "NotServed" {
                    let line = format!("{} {}: {}", request.method, request.path, refused.message);
                    self.refused.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
                (refused.code, refused.status())
            }
        })
    }

    fn answer(&self, request: &Request) -> Result<Value, Refused> {
        let Some((kind, namespace, name)) = route(&request.path) else {
            return Err(Refused::new(404, "NotServed", format!("{} is not served here", request.path)));
        };
        let verb = match (request.method.as_str(), name) {
            ("GET", Some(_)) => "get",
            ("GET", None) => "list",
            ("POST", None) => "create",
            ("PUT", Some(_)) => "update",
            ("PATCH", Some(_)) => "patch",
            ("DELETE", Some(_)) => "delete",
            _ => return Err(Refused::new(405, "MethodNotAllowed", "no such method here")),
        };
        let token = request.headers.get("authorization").and_then(|text| text.strip_prefix("Bearer "));
        self.rights.lock().unwrap_or_else(PoisonError::into_inner).check(token, verb, kind, name)?;
        let body = || {
            let parsed: Result<Value, _> = serde_json::from_slice(&request.body);
            parsed.map_err(|error| Refused::new(400, "BadRequest", error.to_string()))
        };
        let named = name.unwrap_or_default();
        let mut object = match verb {
            "get" => self.objects.get(kind, namespace, named)?,
            "list" => {
                let items = self.objects.list(kind, namespace);
                return Ok(
                    json!({"kind": format!("{}List", kind.name()), "apiVersion": "v1", "metadata": {}, "items": items}),
                );
            }
            "create" => self.objects.create(kind, namespace, body()?)?,
            "update" => self.objects.replace(kind, namespace, named, body()?)?,
            "delete" => self.objects.delete(kind, namespace, named)?,
            _ => {
                let media = request.headers.get("content-type").map_or("", String::as_str);
                if media != "application/merge-patch+json" {
                    return Err(Refused::new(
                        415,
                        "NotServed",
                        format!("patches of type {media:?} are not understood here"),
                    ));
                }
                self.objects.merge(kind, namespace, named, &body()?)?
            }
        };
        object["kind"] = json!(kind.name());
        object["apiVersion"] =
            json!(if kind.group().is_empty() { "v1".to_owned() } else { format!("{}/v1", kind.group()) });
        Ok(object)
    }
}

/// Kind, namespace and name of a path.
fn route(path: &str) -> Option<(Kind, &str, Option<&str>)> {
    let (group, rest) = match path.strip_prefix("/api/v1/namespaces/") {
        Some(rest) => ("", rest),
        None => path.strip_prefix("/apis/")?.split_once("/v1/namespaces/")?,
    };
    let mut parts = rest.split('/');
    let (namespace, resource, name) = (parts.next()?, parts.next()?, parts.next());
    if parts.next().is_some() {
        return None;
    }
    let kind = Kind::ALL.into_iter().find(|kind| kind.group() == group && kind.resource() == resource)?;
    Some((kind, namespace, name.filter(|name| !name.is_empty())))
}

/// A new authority (PEM), and a server's configuration with a certificate of it for `ip`.
fn certificate(ip: IpAddr) -> Result<(String, ServerConfig)> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = vec![ip.to_string(), "kubernetes.default.svc".to_owned()];
    let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((authority.pem(), config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_kind_namespace_and_object() {
        assert_eq!(route("/api/v1/namespaces/prod/pods/p"), Some((Kind::Pod, "prod", Some("p"))));
        assert_eq!(route("/api/v1/namespaces/prod/events"), Some((Kind::Event, "prod", None)));
        let slices = "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices/a";
        assert_eq!(route(slices), Some((Kind::EndpointSlice, "prod", Some("a"))));
        for other in [
            "/api/v1/nodes",
            "/api/v1/namespaces/prod/pods/p/status",
            "/apis/apps/v1/namespaces/prod/deployments",
            "/version",
        ] {
            assert_eq!(route(other), None);
        }
    }
}
