//! Rendered manifests as what the runner can run. Pure.
//!
//! Promises: a field that would have to be ignored is an error. Without effect on processes of one machine are: resources, image pull settings, rollout
//! strategies, priorities, seccomp profiles, spread constraints and required affinities (preferred anti-affinity is followed).

mod pod;

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use self::pod::pod;
use super::fields::Fields;

/// Kinds that say nothing to processes of one machine.
const NOT_RUN: [&str; 6] =
    ["PodDisruptionBudget", "NetworkPolicy", "ServiceAccount", "ServiceMonitor", "PrometheusRule", "Ingress"];

/// Labels, annotations or the files of a ConfigMap.
pub(super) type Texts = BTreeMap<String, String>;

/// Everything that a chart renders.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    pub(super) workloads: Vec<Workload>,
    pub(super) jobs: Vec<Job>,
    pub(super) services: Vec<Service>,
    pub(super) config_maps: BTreeMap<String, Texts>,
    pub(super) rights: Vec<Value>,
}

/// A StatefulSet or Deployment.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    pub(super) name: String,
    pub(super) replicas: u64,
    /// Name of the headless Service, of a StatefulSet.
    pub(super) service: Option<String>,
    /// Names of volume claims.
    pub(super) claims: Vec<String>,
    pub(super) pod: PodTemplate,
}

/// A Job or Pod that ends, and when it is run.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) hooks: Vec<String>,
    pub(super) weight: i64,
    pub(super) tries: u64,
    pub(super) pod: PodTemplate,
}

#[derive(Debug, Clone)]
pub(super) struct PodTemplate {
    pub(super) labels: Texts,
    pub(super) annotations: Texts,
    pub(super) account: Option<String>,
    pub(super) token: bool,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) first: Vec<Container>,
    pub(super) containers: Vec<Container>,
    /// Preferred anti-affinity: weight and labels.
    pub(super) avoids: Vec<(u64, Texts)>,
    pub(super) grace: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Volume {
    Empty,
    ConfigMap { name: String },
    Secret { name: String, items: Vec<(String, String)>, mode: u32 },
}

#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) command: Vec<String>,
    pub(super) env: Vec<(String, Source)>,
    pub(super) ports: BTreeMap<String, u16>,
    pub(super) startup: Option<Probe>,
    pub(super) liveness: Option<Probe>,
    pub(super) readiness: Option<Probe>,
    pub(super) mounts: Vec<Mount>,
    pub(super) read_only: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Source {
    Text(String),
    Field(String),
    Secret { name: String, key: String },
}

#[derive(Debug, Clone)]
pub(super) struct Mount {
    pub(super) volume: String,
    pub(super) path: String,
    pub(super) read_only: bool,
}

/// `httpGet`.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    pub(super) path: String,
    pub(super) port: u16,
    pub(super) period: u64,
    pub(super) timeout: u64,
    pub(super) failures: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) object: Value,
    pub(super) name: String,
    pub(super) headless: bool,
    pub(super) selector: Texts,
    /// Port, and number or name at the pod.
    pub(super) ports: Vec<(u16, Value)>,
}

impl Manifests {
    pub(super) fn read(objects: Vec<Value>) -> Result<Self> {
        let mut all = Self::default();
        for object in objects {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let at = format!("{kind}/{name}");
            match kind.as_str() {
                "StatefulSet" | "Deployment" => all.workloads.push(workload(Fields::of(at, object)?)?),
                "Job" => all.jobs.push(job(Fields::of(at, object)?)?),
                "Pod" => all.jobs.push(test_pod(Fields::of(at, object)?)?),
                "Service" => all.services.push(service(Fields::of(at, object.clone())?, object)?),
                "ConfigMap" => {
                    let mut fields = Fields::of(at, object)?;
                    fields.without_effect(&["apiVersion", "kind", "metadata"]);
                    let name = fields.at().trim_start_matches("ConfigMap/").to_owned();
                    all.config_maps.insert(name, fields.map("data")?);
                    fields.finish()?;
                }
                "Role" | "RoleBinding" => all.rights.push(object),
                other if NOT_RUN.contains(&other) => {}
                _ => bail!("{at}: the runner has no such kind"),
            }
        }
        Ok(all)
    }
}

/// Name and annotations of an object.
fn metadata(fields: &mut Fields) -> Result<(String, Texts, Texts)> {
    let mut metadata = fields.section("metadata")?;
    let found = (metadata.text("name")?.unwrap_or_default(), metadata.map("labels")?, metadata.map("annotations")?);
    metadata.without_effect(&["namespace"]);
    metadata.finish()?;
    Ok(found)
}

fn workload(mut fields: Fields) -> Result<Workload> {
    fields.without_effect(&["apiVersion", "kind"]);
    let (name, ..) = metadata(&mut fields)?;
    let mut spec = fields.section("spec")?;
    fields.finish()?;
    spec.only("podManagementPolicy", &json!("Parallel"))?;
    spec.without_effect(&["updateStrategy", "strategy"]);
    let (replicas, service) = (spec.number("replicas", 1)?, spec.text("serviceName")?);
    let mut selector = spec.section("selector")?;
    let selected = selector.map("matchLabels")?;
    selector.finish()?;
    let mut claims = Vec::new();
    for mut claim in spec.sections("volumeClaimTemplates")? {
        claim.without_effect(&["apiVersion", "kind", "spec"]);
        claims.push(metadata(&mut claim)?.0);
        claim.finish()?;
    }
    let pod = template(&mut spec, &claims)?;
    let at = spec.at().to_owned();
    spec.finish()?;
    ensure!(selected.iter().all(|(key, value)| pod.labels.get(key) == Some(value)), "{at}: selects other pods");
    Ok(Workload { name, replicas, service, claims, pod })
}

fn hooks(annotations: &Texts) -> Result<(Vec<String>, i64)> {
    for key in annotations.keys() {
        let known = ["helm.sh/hook", "helm.sh/hook-weight", "helm.sh/hook-delete-policy"].contains(&key.as_str());
        ensure!(known || !key.starts_with("helm.sh/"), "{key}: the runner would have to ignore this");
    }
    let hooks = annotations.get("helm.sh/hook").map(|text| text.split(',').map(str::to_owned).collect());
    let weight = annotations.get("helm.sh/hook-weight").map_or(Ok(0), |text| text.parse())?;
    Ok((hooks.unwrap_or_default(), weight))
}

fn job(mut fields: Fields) -> Result<Job> {
    fields.without_effect(&["apiVersion", "kind"]);
    let (name, _, annotations) = metadata(&mut fields)?;
    let (hooks, weight) = hooks(&annotations)?;
    let mut spec = fields.section("spec")?;
    fields.finish()?;
    let tries = spec.number("backoffLimit", 6)? + 1;
    let pod = template(&mut spec, &[])?;
    spec.finish()?;
    Ok(Job { name, hooks, weight, tries, pod })
}

fn test_pod(mut fields: Fields) -> Result<Job> {
    fields.without_effect(&["apiVersion", "kind"]);
    let (name, labels, annotations) = metadata(&mut fields)?;
    let (hooks, weight) = hooks(&annotations)?;
    let spec = fields.section("spec")?;
    fields.finish()?;
    let pod = PodTemplate { labels, annotations, ..pod(spec, &[])? };
    Ok(Job { name, hooks, weight, tries: 1, pod })
}

fn template(spec: &mut Fields, claims: &[String]) -> Result<PodTemplate> {
    let mut template = spec.section("template")?;
    let (_, labels, annotations) = metadata(&mut template)?;
    let inner = template.section("spec")?;
    template.finish()?;
    Ok(PodTemplate { labels, annotations, ..pod(inner, claims)? })
}

fn service(mut fields: Fields, object: Value) -> Result<Service> {
    fields.without_effect(&["apiVersion", "kind"]);
    let (name, ..) = metadata(&mut fields)?;
    let mut spec = fields.section("spec")?;
    fields.finish()?;
    spec.only("type", &json!("ClusterIP"))?;
    let headless = spec.text("clusterIP")?.is_some_and(|ip| ip == "None");
    ensure!(
        !headless || spec.flag("publishNotReadyAddresses", false)?,
        "{}: names of pods that are not ready can't be hidden by the runner",
        spec.at()
    );
    let selector = spec.map("selector")?;
    let mut ports = Vec::new();
    for mut port in spec.sections("ports")? {
        port.without_effect(&["name"]);
        port.only("protocol", &json!("TCP"))?;
        let number = port.number("port", 0)?;
        ports.push((u16::try_from(number)?, port.take("targetPort").unwrap_or_else(|| json!(number))));
        port.finish()?;
    }
    spec.finish()?;
    Ok(Service { object, name, headless, selector, ports })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(change: impl FnOnce(&mut Value)) -> Result<Manifests> {
        let container = json!({"name": "a", "image": "i:1", "command": ["/a"], "ports": [{"name": "http", "containerPort": 80}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true}});
        let mut object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "w"}, "spec": {
            "selector": {"matchLabels": {"l": "1"}},
            "template": {"metadata": {"labels": {"l": "1"}}, "spec": {"securityContext": {"runAsUser": 7, "runAsNonRoot": true}, "containers": [container]}}}});
        change(&mut object);
        Manifests::read(vec![object])
    }

    #[test]
    fn what_it_can_run_is_read() {
        let all = workload(|_| {}).unwrap();
        assert_eq!((all.workloads[0].pod.user, all.workloads[0].pod.containers[0].ports["http"]), (7, 80));
    }

    #[test]
    fn what_it_would_have_to_ignore_is_refused_by_its_path() {
        let refused = |path: &'static str, value: Value| {
            let (parent, field) = path.rsplit_once('/').unwrap();
            let change = |object: &mut Value| object.pointer_mut(parent).unwrap()[field] = value;
            workload(change).unwrap_err().to_string()
        };
        let pod = "/spec/template/spec";
        assert!(refused("/spec/minReadySeconds", json!(5)).contains("spec.minReadySeconds"));
        for (path, value) in [
            ("/spec/template/spec/hostNetwork", json!(true)),
            ("/spec/template/spec/containers/0/lifecycle", json!({})),
            ("/spec/template/spec/containers/0/readinessProbe/tcpSocket", json!({})),
            ("/spec/template/spec/containers/0/readinessProbe/initialDelaySeconds", json!(1)),
            ("/spec/template/spec/containers/0/envFrom", json!([])),
            ("/spec/template/spec/containers/0/securityContext/runAsUser", json!(1)),
            ("/spec/template/spec/securityContext/supplementalGroups", json!([1])),
        ] {
            let error = refused(path, value);
            assert!(path.starts_with(pod) && error.contains(path.rsplit_once('/').unwrap().1), "{error}");
        }
        assert!(
            refused("/spec/template/spec/containers/0/securityContext/privileged", json!(true)).contains("privileged")
        );
        assert!(refused("/spec/template/spec/securityContext/runAsUser", json!(0)).contains("root"));
        assert!(Manifests::read(vec![json!({"kind": "DaemonSet", "metadata": {"name": "d"}})]).is_err());
    }
}
