//! Installs the chart as Helm does, on this machine: hooks before, everything at once, hooks after.
//!
//! Promises: what is rendered is what runs, see [`super::pod`]; names of pods and Services resolve everywhere as in a cluster; ClusterIPs pass on to
//! ready pods, or to what the EndpointSlice says where a Service has no selector. Uses the chart's own Python environment for rendering.

mod files;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::files::{etc_of, render, secret};
use super::api::ApiServer;
use super::image::Images;
use super::manifest::{Job, Manifests, PodTemplate, Service, Workload};
use super::objects::Kind;
use super::pod::{Around, Pod};
use super::proxy::Forward;
use crate::dir::Bed;
use crate::netns::{Host, Net};
use crate::wait::{wait_for, wait_until};

/// The namespace of every release here.
pub const NAMESPACE: &str = "prod";
/// Nodes that pods are put on.
const NODES: u32 = 6;
/// How long everything may take to become ready.
const READY: Duration = Duration::from_secs(180);

/// A release under way; everything ends with it.
pub struct Release {
    name: String,
    pods: Arc<Mutex<Vec<Pod>>>,
    forwards: Vec<Forward>,
    manifests: Manifests,
    addresses: BTreeMap<String, Ipv4Addr>,
    api: Arc<ApiServer>,
    images: Images,
    etc: PathBuf,
    /// Host of each pod, so that a name keeps its address.
    hosts: BTreeMap<String, Host>,
    services: Host,
    client: Host,
    net: Net,
    bed: Bed,
}

impl Release {
    /// `helm install NAME charts/baton -f VALUES...`: returns once the last hook has ended.
    pub fn install(bed: &Bed, name: &str, values: &[&Path]) -> Result<Self> {
        let manifests = Manifests::read(render(bed, name, values, false)?)?;
        let net = Net::new()?;
        let (services, client, api) = (net.host("services")?, net.host("client")?, net.host("kube-api")?);
        let listener = api.inside(|| Ok(TcpListener::bind((api.ip(), 443))?))?;
        let api = Arc::new(ApiServer::start(listener, api.ip().into())?);
        let etc = bed.path("etc");
        etc_of(&etc)?;
        let mut release = Self {
            name: name.to_owned(),
            pods: Arc::default(),
            forwards: Vec::new(),
            manifests,
            addresses: BTreeMap::new(),
            api,
            images: Images::of_this_machine()?,
            etc,
            hosts: BTreeMap::new(),
            services,
            client,
            net,
            bed: bed.clone(),
        };
        for role in &release.manifests.rights {
            release.api.rights().add(role);
        }
        release.hooks("pre-install")?;
        release.start_services()?;
        release.start_workloads()?;
        release.hooks("post-install").map_err(|error| error.context(release.tails()))?;
        Ok(release)
    }

    /// Runs the hooks of an upgrade to other values; gives the objects that it renders. The pods stay as they are.
    pub fn upgrade_hooks(&mut self, values: &[&Path]) -> Result<()> {
        self.manifests.jobs = Manifests::read(render(&self.bed, &self.name, values, true)?)?.jobs;
        self.hooks("pre-upgrade")?;
        self.hooks("post-upgrade")
    }

    /// `helm test`: gives what its containers printed.
    pub fn test(&mut self) -> Result<String> {
        let jobs: Vec<Job> = self.jobs("test");
        ensure!(!jobs.is_empty(), "the chart has no test");
        jobs.iter().map(|job| self.run(job)).collect()
    }

    /// Waits until every pod is ready.
    pub fn wait_ready(&self) -> Result<()> {
        let late =
            || self.lock().iter().filter(|pod| !pod.is_ready()).map(|pod| pod.name().to_owned()).collect::<Vec<_>>();
        wait_for("all pods to be ready", READY, || Ok(late().is_empty().then_some(())))
            .with_context(|| format!("not ready: {:?}\n{}", late(), self.tails()))
    }

    /// A pod by its name, with or without the release's in front of it.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let pods = self.lock();
        let found = pods.iter().find(|pod| pod.name() == name || pod.name() == format!("{}-{name}", self.name));
        found.cloned().with_context(|| format!("there is no pod {name}"))
    }

    /// Every pod.
    pub fn pods(&self) -> Vec<Pod> {
        self.lock().clone()
    }

    /// The ClusterIP of a Service of the release, such as `primary`.
    pub fn cluster_ip(&self, service: &str) -> Result<Ipv4Addr> {
        let name = format!("{}-{service}", self.name);
        self.addresses.get(&name).copied().with_context(|| format!("{name} has no ClusterIP"))
    }

    /// The API.
    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// A host in the same network with nothing on it.
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// A key of the release's Secret.
    pub fn secret(&self, key: &str) -> Result<String> {
        let data = secret(&self.api, &format!("{}-secrets", self.name))?;
        Ok(String::from_utf8(data.get(key).with_context(|| format!("no key {key}"))?.clone())?)
    }

    /// The addresses in the EndpointSlice of a Service such as `primary`.
    pub fn published(&self, service: &str) -> Vec<IpAddr> {
        published(&self.api, &format!("{}-{service}", self.name))
    }

    /// The pod that the EndpointSlice of `primary` names, if it names one.
    pub fn primary(&self) -> Option<Pod> {
        let ip = *self.published("primary").first()?;
        self.lock().iter().find(|pod| pod.ip() == ip).cloned()
    }

    /// `kubectl run`: a command in a new pod like the Job `bootstrap`'s, with the same image and files; gives what it printed.
    pub fn run_like(&mut self, job: &str, name: &str, command: &[&str]) -> Result<String> {
        let full = format!("{}-{job}", self.name);
        let found = self.manifests.jobs.iter().find(|job| job.name == full);
        let mut job = found.cloned().with_context(|| format!("there is no Job {full}"))?;
        job.name = format!("{}-{name}", self.name);
        job.tries = 1;
        for container in &mut job.pod.containers {
            container.command = command.iter().map(|word| (*word).to_owned()).collect();
        }
        self.run(&job)
    }

    /// The ends of all logs.
    pub fn tails(&self) -> String {
        self.lock().iter().map(Pod::tail).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Pod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn jobs(&self, hook: &str) -> Vec<Job> {
        let mut jobs: Vec<Job> =
            self.manifests.jobs.iter().filter(|job| job.hooks.iter().any(|h| h == hook)).cloned().collect();
        jobs.sort_by_key(|job| job.weight);
        jobs
    }

    fn hooks(&mut self, hook: &str) -> Result<()> {
        self.jobs(hook).iter().try_for_each(|job| self.run(job).map(drop))
    }

    fn run(&mut self, job: &Job) -> Result<String> {
        let host = self.host(&job.name, &job.pod)?;
        self.write_names()?;
        let mut last = Ok(String::new());
        for _ in 0..job.tries {
            let api = self.access(&job.pod);
            last = Pod::run(&job.name, &job.pod, &host, &self.around(&job.pod, api));
            if last.is_ok() {
                break;
            }
        }
        last.with_context(|| format!("Job {}", job.name))
    }

    /// The host of a pod, made at first.
    fn host(&mut self, pod: &str, template: &PodTemplate) -> Result<Host> {
        if let Some(host) = self.hosts.get(pod) {
            return Ok(host.clone());
        }
        let component = template.labels.get("app.kubernetes.io/component").map_or("pod", String::as_str);
        let host = self.net.host(&format!("{component:.10}-{}", self.hosts.len()))?;
        self.hosts.insert(pod.to_owned(), host.clone());
        Ok(host)
    }

    fn access(&self, template: &PodTemplate) -> Option<(String, String, SocketAddr)> {
        let account = template.account.as_deref().unwrap_or("default");
        let token = template.token.then(|| self.api.rights().token(account))?;
        Some((token, self.api.ca().to_owned(), self.api.address()))
    }

    fn around(&self, template: &PodTemplate, api: Option<(String, String, SocketAddr)>) -> Around<'_> {
        let api_server = &self.api;
        Around {
            bed: &self.bed,
            images: &self.images,
            namespace: NAMESPACE,
            node: self.place(template),
            config_maps: &self.manifests.config_maps,
            secrets: Box::new(move |name: &str| secret(api_server, name)),
            etc: self.etc.clone(),
            api,
        }
    }

    /// A node for a pod: the one whose pods it avoids least, then the emptiest.
    fn place(&self, template: &PodTemplate) -> String {
        let pods = self.lock();
        let cost = |node: &str| {
            let there = || pods.iter().filter(|pod| pod.node() == node);
            let avoided = |labels: &BTreeMap<String, String>| there().any(|pod| selects(labels, pod.labels()));
            let weights = template.avoids.iter().filter(|(_, labels)| avoided(labels)).map(|(weight, _)| weight);
            (weights.sum::<u64>(), there().count())
        };
        let nodes = (1..=NODES).map(|number| format!("n{number}"));
        nodes.min_by_key(|node| cost(node)).unwrap_or_default()
    }

    fn start_services(&mut self) -> Result<()> {
        for (number, service) in (100..).zip(self.manifests.services.iter().filter(|service| !service.headless)) {
            let ip = self.net.spare_ip(number);
            self.services.add_address(ip)?;
            self.addresses.insert(service.name.clone(), ip);
        }
        for service in &self.manifests.services {
            let mut object = service.object.clone();
            object["spec"]["ipFamilies"] = json!(["IPv4"]);
            self.api.objects().put(Kind::Service, NAMESPACE, &service.name, &object);
            let Some(ip) = self.addresses.get(&service.name) else { continue };
            for (port, target) in &service.ports {
                let endpoints = endpoints(service, target.clone(), Arc::clone(&self.pods), Arc::clone(&self.api));
                self.forwards.push(Forward::start(&self.services, *ip, *port, endpoints)?);
            }
        }
        Ok(())
    }

    fn start_workloads(&mut self) -> Result<()> {
        let workloads = self.manifests.workloads.clone();
        let mut all: Vec<(String, &Workload)> = Vec::new();
        for workload in &workloads {
            // As Kubernetes names them: a StatefulSet's by number, a Deployment's with its template's hash.
            let infix = if workload.service.is_some() { "" } else { "-5f6d8c7b9" };
            for number in 0..workload.replicas {
                all.push((format!("{}{infix}-{number}", workload.name), workload));
            }
        }
        for (pod, workload) in &all {
            self.host(pod, &workload.pod)?;
        }
        self.write_names()?;
        for (name, workload) in all {
            let host = self.host(&name, &workload.pod)?;
            let around = self.around(&workload.pod, self.access(&workload.pod));
            let ip = host.ip().to_string();
            let object = json!({
                "metadata": {"name": name, "labels": workload.pod.labels, "annotations": workload.pod.annotations},
                "spec": {"nodeName": around.node, "containers": []},
                "status": {"podIP": ip, "podIPs": [{"ip": ip}]},
            });
            let pod = Pod::start(&name, &workload.pod, &workload.claims, host, &around)?;
            self.api.objects().put(Kind::Pod, NAMESPACE, &name, &object);
            self.lock().push(pod);
        }
        Ok(())
    }

    /// What the cluster's DNS would answer.
    fn write_names(&self) -> Result<()> {
        let mut text = "127.0.0.1 localhost\n".to_owned();
        for (service, ip) in &self.addresses {
            let _infallible = writeln!(text, "{ip} {service} {service}.{NAMESPACE} {service}.{NAMESPACE}.svc");
        }
        for workload in &self.manifests.workloads {
            let Some(service) = &workload.service else { continue };
            for number in 0..workload.replicas {
                let pod = format!("{}-{number}", workload.name);
                let Some(host) = self.hosts.get(&pod) else { continue };
                let _infallible = writeln!(text, "{} {pod}.{service}.{NAMESPACE}.svc {pod}.{service} {pod}", host.ip());
            }
        }
        fs::write(self.etc.join("hosts"), text).context("can't write the hosts file")
    }

    /// Waits until the primary Service leads to a pod other than `old`; gives it.
    pub fn wait_other_primary(&self, old: &Pod) -> Result<Pod> {
        let what = format!("another primary than {}", old.name());
        let read = || Ok(self.primary().map(|pod| pod.name().to_owned()));
        let found = wait_until(&what, read, |name| name.as_ref().is_some_and(|name| name != old.name()))?;
        self.pod(&found.unwrap_or_default())
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        self.forwards.clear();
        self.lock().clear();
    }
}

fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Where connections to a Service's port may go at a moment.
fn endpoints(
    service: &Service,
    target: Value,
    pods: Arc<Mutex<Vec<Pod>>>,
    api: Arc<ApiServer>,
) -> impl Fn() -> Vec<SocketAddr> + Send + 'static {
    let (name, selector) = (service.name.clone(), service.selector.clone());
    move || {
        let number = target.as_u64().and_then(|number| u16::try_from(number).ok());
        if selector.is_empty() {
            return published(&api, &name).into_iter().filter_map(|ip| Some((ip, number?).into())).collect();
        }
        let pods = pods.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = pods.iter().filter(|pod| pod.is_ready() && selects(&selector, pod.labels()));
        let port = |pod: &Pod| number.or_else(|| pod.port(target.as_str()?));
        ready.filter_map(|pod| Some((pod.ip(), port(pod)?).into())).collect()
    }
}

fn published(api: &ApiServer, slice: &str) -> Vec<IpAddr> {
    let slice = api.objects().get(Kind::EndpointSlice, NAMESPACE, slice).unwrap_or_default();
    let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
    let ready = endpoints.iter().filter(|endpoint| endpoint["conditions"]["ready"] != json!(false));
    ready.filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok()).collect()
}
