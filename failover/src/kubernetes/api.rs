//! The requests to the Kubernetes API. The only file that knows how it is spoken to.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, Error};
use serde_json::json;

use super::slices::{Rank, Target, Verdict, addresses, family, verdict};
use super::wanted::{Member, Role, Wanted};
use super::{KubernetesError, Services};

/// For one request.
const LIMIT: Duration = Duration::from_secs(3);
/// How often a write is begun anew because somebody else wrote in between.
const TRIES: u32 = 5;
/// Label of a server's pod.
const ROLE: &str = "baton/role";
/// Who writes, in Events.
const COMPONENT: &str = "baton-failover";

/// Writes what is wanted; see the module above.
pub struct Publisher {
    published: Services,
    services: Api<Service>,
    slices: Api<EndpointSlice>,
    pods: Api<Pod>,
    events: Api<Event>,
}

impl Publisher {
    /// With the pod's service account. Asks nothing yet.
    ///
    /// # Errors
    /// There is none.
    pub fn connect(published: &Services) -> Result<Self, KubernetesError> {
        Self::with_access(published, access()?)
    }

    /// With a given way to the API.
    ///
    /// # Errors
    /// It can't be used.
    pub fn with_access(published: &Services, access: Config) -> Result<Self, KubernetesError> {
        let namespace = published.namespace.clone().unwrap_or_else(|| access.default_namespace.clone());
        let client = Client::try_from(access).map_err(|e| KubernetesError::NoAccess(e.to_string()))?;
        Ok(Self {
            published: published.clone(),
            services: Api::namespaced(client.clone(), &namespace),
            slices: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client.clone(), &namespace),
            events: Api::namespaced(client, &namespace),
        })
    }

    /// Makes the slices, and then the pods' labels, what is wanted.
    ///
    /// # Errors
    /// The first thing that failed; all of it may be tried again.
    pub async fn publish(&self, wanted: &Wanted) -> Result<(), KubernetesError> {
        let primary: Vec<Member> = wanted.primary.iter().cloned().collect();
        if let Some(service) = &self.published.primary {
            self.slice(service, wanted.rank, &primary, true).await?;
        }
        if let Some(service) = &self.published.replicas {
            self.slice(service, wanted.rank, &wanted.replicas, false).await?;
        }
        for (node, role) in &wanted.roles {
            self.label(node, *role).await?;
        }
        Ok(())
    }

    /// Writes the slice of a Service. With `strict`, a member without an address is an error; without, it is left out.
    async fn slice(&self, name: &str, rank: Rank, members: &[Member], strict: bool) -> Result<(), KubernetesError> {
        let service = asked(&format!("get Service {name}"), self.services.get(name)).await?;
        for _ in 0..TRIES {
            let there = asked(&format!("get EndpointSlice {name}"), self.slices.get_opt(name)).await?;
            let family = family(&service, there.as_ref());
            let mut targets = Vec::new();
            for member in members {
                match self.target(member, &family).await {
                    Ok(target) => targets.push(target),
                    Err(error) if strict => return Err(error),
                    Err(error) => tracing::warn!(%error, "replica not published"),
                }
            }
            let params = PostParams::default();
            let (written, what) = match verdict(&service, there.as_ref(), rank, &targets, self.published.port) {
                Verdict::Keep => return Ok(()),
                Verdict::Newer(newer) => {
                    return Err(KubernetesError::Newer { slice: name.to_owned(), there: newer, ours: rank });
                }
                Verdict::Create(slice) => (self.write(self.slices.create(&params, &slice)).await, "create"),
                Verdict::Replace(slice) => (self.write(self.slices.replace(name, &params, &slice)).await, "replace"),
            };
            match written.map_err(|why| failed(&format!("{what} EndpointSlice {name}"), why))? {
                Written::Done => {
                    let ips: Vec<String> = targets.iter().map(|target| target.ip.to_string()).collect();
                    let before = addresses(there.as_ref());
                    if before != ips {
                        tracing::info!(service = name, ?before, now = ?ips, %rank, "published");
                        self.event(&service, rank, members, &ips).await;
                    }
                    return Ok(());
                }
                Written::Conflict => {}
            }
        }
        Err(KubernetesError::Contended { slice: name.to_owned(), tries: TRIES })
    }

    async fn write<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<Written, Why> {
        match tokio::time::timeout(LIMIT, request).await {
            Ok(Ok(_)) => Ok(Written::Done),
            Ok(Err(Error::Api(status))) if status.code == 409 => Ok(Written::Conflict),
            Ok(Err(error)) => Err(Why::Error(Box::new(error))),
            Err(_) => Err(Why::Slow),
        }
    }

    /// Where a member is reached: its pod's address if it is a pod, else what its addresses name.
    async fn target(&self, member: &Member, family: &str) -> Result<Target, KubernetesError> {
        let fits = |ip: &IpAddr| ip.is_ipv6() == (family == "IPv6");
        let none =
            |why: String| KubernetesError::NoAddress { node: member.node.clone(), family: family.to_owned(), why };
        if let Some(pod) = self.pod(&member.node).await? {
            let status = pod.status.as_ref();
            let all = status.and_then(|s| s.pod_ips.as_ref()).map(|ips| ips.iter().map(|ip| ip.ip.clone()).collect());
            let ips: Vec<String> = all.unwrap_or_else(|| status.and_then(|s| s.pod_ip.clone()).into_iter().collect());
            let ip = ips.iter().filter_map(|ip| ip.parse().ok()).find(fits);
            let ip = ip.ok_or_else(|| none(format!("its pod has {ips:?}")))?;
            return Ok(Target { ip, pod: Some(pod) });
        }
        let mut found = Vec::new();
        for address in &member.addresses {
            let resolved = tokio::time::timeout(LIMIT, tokio::net::lookup_host(address.as_str())).await;
            if let Ok(Ok(resolved)) = resolved {
                found.extend(resolved.map(|at| at.ip()));
            }
        }
        let ip = found.iter().copied().find(fits).ok_or_else(|| none(format!("its addresses name {found:?}")))?;
        Ok(Target { ip, pod: None })
    }

    /// The pod of that name; none too where this account may not see one, since then it is none of the release's.
    async fn pod(&self, name: &str) -> Result<Option<Pod>, KubernetesError> {
        let what = format!("get Pod {name}");
        match tokio::time::timeout(LIMIT, self.pods.get_opt(name)).await {
            Ok(Ok(pod)) => Ok(pod),
            Ok(Err(Error::Api(status))) if status.code == 403 => Ok(None),
            Ok(Err(error)) => Err(failed(&what, Why::Error(Box::new(error)))),
            Err(_) => Err(failed(&what, Why::Slow)),
        }
    }

    async fn label(&self, node: &str, role: Role) -> Result<(), KubernetesError> {
        let Some(pod) = self.pod(node).await? else { return Ok(()) };
        let there = pod.metadata.labels.as_ref().and_then(|labels| labels.get(ROLE)).map(String::as_str);
        if there == Some(role.name()) {
            return Ok(());
        }
        let mut metadata = json!({"labels": {ROLE: role.name()}});
        // Of the pod that was read, not of a new one with its name.
        if let (Some(uid), Some(metadata)) = (&pod.metadata.uid, metadata.as_object_mut()) {
            metadata.insert("uid".to_owned(), json!(uid));
        }
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let params = PatchParams::default();
        match asked(&format!("label Pod {node}"), self.pods.patch(node, &params, &patch)).await {
            Ok(_) => Ok(()),
            Err(error) => {
                // Gone or replaced meanwhile: the next look finds the new one.
                let now = self.pod(node).await?;
                if now.is_none_or(|now| now.metadata.uid != pod.metadata.uid) { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Tells of a change. That it can't be told is logged and hinders nothing.
    async fn event(&self, service: &Service, rank: Rank, members: &[Member], ips: &[String]) {
        let name = service.metadata.name.clone().unwrap_or_default();
        let primary = self.published.primary.as_deref() == Some(name.as_str());
        let who: Vec<&str> = members.iter().map(|member| member.node.as_str()).collect();
        let (reason, kind, message) = match (primary, ips.is_empty()) {
            (true, false) => {
                ("PrimaryPublished", "Normal", format!("{} at {} serves {rank}", who.join(", "), ips.join(", ")))
            }
            (true, true) => ("PrimaryWithdrawn", "Warning", format!("nobody serves: {rank} has no primary (yet)")),
            (false, false) => ("ReplicasPublished", "Normal", format!("to be read from: {}", who.join(", "))),
            (false, true) => ("ReplicasWithdrawn", "Warning", "no replica is close enough to the primary".to_owned()),
        };
        let now = Time(Timestamp::now());
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{name}.")),
                namespace: service.metadata.namespace.clone(),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Service".to_owned()),
                name: Some(name.clone()),
                namespace: service.metadata.namespace.clone(),
                uid: service.metadata.uid.clone(),
                ..ObjectReference::default()
            },
            reason: Some(reason.to_owned()),
            type_: Some(kind.to_owned()),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
            reporting_component: Some(COMPONENT.to_owned()),
            ..Event::default()
        };
        if let Err(error) = asked("create Event", self.events.create(&PostParams::default(), &event)).await {
            tracing::warn!(%error, "a change was not told as an Event");
        }
    }
}

/// How a write went.
enum Written {
    /// It holds.
    Done,
    /// Somebody else wrote since it was read.
    Conflict,
}

/// Why there is no answer.
enum Why {
    /// An error.
    Error(Box<Error>),
    /// It took too long.
    Slow,
}

fn failed(what: &str, why: Why) -> KubernetesError {
    match why {
        Why::Slow => KubernetesError::Timeout { what: what.to_owned(), limit: LIMIT },
        Why::Error(error) => {
            let why = match *error {
                Error::Api(status) => format!("{} {}", status.code, status.message),
                // The error's own text leaves out what caused it.
                other => format!("{:#}", anyhow::Error::new(other)),
            };
            KubernetesError::Request { what: what.to_owned(), why }
        }
    }
}

/// An answer in time, or what to say of it.
pub(super) async fn asked<T>(
    what: &str,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, KubernetesError> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(what, Why::Error(Box::new(error)))),
        Err(_) => Err(failed(what, Why::Slow)),
    }
}

/// The pod's service account.
pub(super) fn access() -> Result<Config, KubernetesError> {
    // Whoever set up TLS for the rest of the process has done so already.
    let _there_is_one = rustls::crypto::ring::default_provider().install_default();
    let mut access = Config::incluster().map_err(|e| KubernetesError::NoAccess(e.to_string()))?;
    access.connect_timeout = Some(LIMIT);
    Ok(access)
}
