//! What a pod and its containers are, read field by field.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::super::fields::Fields;
use super::{Container, Mount, PodTemplate, Probe, Source, Texts, Volume};

/// A pod's specification; `claims` are the volumes that the workload claims for it.
pub(super) fn pod(mut spec: Fields, claims: &[String]) -> Result<PodTemplate> {
    spec.without_effect(&["topologySpreadConstraints", "priorityClassName", "imagePullSecrets", "restartPolicy"]);
    spec.only("enableServiceLinks", &json!(false))?;
    let (account, token) = (spec.text("serviceAccountName")?, spec.flag("automountServiceAccountToken", true)?);
    let grace = spec.number("terminationGracePeriodSeconds", 30)?;
    let mut security = spec.section("securityContext")?;
    let (user, group) = (security.number("runAsUser", 0)?, security.number("runAsGroup", 0)?);
    let owner = security.number("fsGroup", group)?;
    ensure!(owner == group, "{}: fsGroup is another than runAsGroup: the runner has one group", security.at());
    security.only("runAsNonRoot", &json!(true))?;
    security.without_effect(&["fsGroupChangePolicy", "seccompProfile"]);
    ensure!(user > 0, "{}: would run as root", security.at());
    security.finish()?;
    let mut volumes = BTreeMap::new();
    for mut volume in spec.sections("volumes")? {
        let name = volume.must("name")?;
        let kind = if let Some(empty) = volume.optional("emptyDir")? {
            empty.finish()?;
            Volume::Empty
        } else if let Some(mut map) = volume.optional("configMap")? {
            let name = map.must("name")?;
            map.finish()?;
            Volume::ConfigMap { name }
        } else if let Some(mut secret) = volume.optional("secret")? {
            let (name, mode) = (secret.must("secretName")?, secret.number("defaultMode", 0o644)?);
            let mut items = Vec::new();
            for mut item in secret.sections("items")? {
                items.push((item.must("key")?, item.must("path")?));
                item.finish()?;
            }
            secret.finish()?;
            Volume::Secret { name, items, mode: u32::try_from(mode)? }
        } else {
            bail!("{}: the runner has no such volume", volume.at());
        };
        volume.finish()?;
        volumes.insert(name, kind);
    }
    let avoids = avoids(spec.section("affinity")?)?;
    let many = |spec: &mut Fields, key: &str| -> Result<Vec<Container>> {
        spec.sections(key)?.into_iter().map(container).collect()
    };
    let (first, containers) = (many(&mut spec, "initContainers")?, many(&mut spec, "containers")?);
    for mount in first.iter().chain(&containers).flat_map(|container| &container.mounts) {
        let known = volumes.contains_key(&mount.volume) || claims.contains(&mount.volume);
        ensure!(known, "{}: mounts {}, which there is not", spec.at(), mount.volume);
    }
    spec.finish()?;
    Ok(PodTemplate {
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        account,
        token,
        user: u32::try_from(user)?,
        group: u32::try_from(group)?,
        volumes,
        first,
        containers,
        avoids,
        grace,
    })
}

fn avoids(mut affinity: Fields) -> Result<Vec<(u64, Texts)>> {
    let mut anti = affinity.section("podAntiAffinity")?;
    affinity.finish()?;
    anti.without_effect(&["requiredDuringSchedulingIgnoredDuringExecution"]);
    let mut found = Vec::new();
    for mut preferred in anti.sections("preferredDuringSchedulingIgnoredDuringExecution")? {
        let weight = preferred.number("weight", 1)?;
        let mut term = preferred.section("podAffinityTerm")?;
        preferred.finish()?;
        term.only("topologyKey", &json!("kubernetes.io/hostname"))?;
        let mut selector = term.section("labelSelector")?;
        term.finish()?;
        found.push((weight, selector.map("matchLabels")?));
        selector.finish()?;
    }
    anti.finish()?;
    Ok(found)
}

fn container(mut fields: Fields) -> Result<Container> {
    let (name, image) = (fields.must("name")?, fields.must("image")?);
    let mut command = fields.texts("command")?;
    ensure!(
        !command.is_empty(),
        "{}: without a command the image's own would be run, and there is no image",
        fields.at()
    );
    command.extend(fields.texts("args")?);
    fields.without_effect(&["imagePullPolicy", "resources"]);
    let mut ports = BTreeMap::new();
    for mut port in fields.sections("ports")? {
        port.only("protocol", &json!("TCP"))?;
        ports.insert(port.must("name")?, u16::try_from(port.number("containerPort", 0)?)?);
        port.finish()?;
    }
    let mut probe = |key: &str| -> Result<Option<Probe>> {
        let Some(mut probe) = fields.optional(key)? else { return Ok(None) };
        let (period, timeout) = (probe.number("periodSeconds", 10)?, probe.number("timeoutSeconds", 1)?);
        let failures = probe.number("failureThreshold", 3)?;
        let mut get = probe.section("httpGet")?;
        get.only("scheme", &json!("HTTP"))?;
        let (path, port) = (get.must("path")?, get.must("port")?);
        let port = *ports.get(&port).with_context(|| format!("{}: no port {port}", get.at()))?;
        get.finish()?;
        probe.finish()?;
        Ok(Some(Probe { path, port, period, timeout, failures }))
    };
    let (startup, liveness, readiness) = (probe("startupProbe")?, probe("livenessProbe")?, probe("readinessProbe")?);
    let mut security = fields.section("securityContext")?;
    security.only("allowPrivilegeEscalation", &json!(false))?;
    security.only("capabilities", &json!({"drop": ["ALL"]}))?;
    security.only("privileged", &json!(false))?;
    security.only("runAsNonRoot", &json!(true))?;
    let read_only = security.flag("readOnlyRootFilesystem", false)?;
    security.finish()?;
    let mut mounts = Vec::new();
    for mut mount in fields.sections("volumeMounts")? {
        let (volume, path) = (mount.must("name")?, mount.must("mountPath")?);
        mounts.push(Mount { volume, path, read_only: mount.flag("readOnly", false)? });
        mount.finish()?;
    }
    let env = fields.sections("env")?.into_iter().map(variable).collect::<Result<_>>()?;
    fields.finish()?;
    Ok(Container { name, image, command, env, ports, startup, liveness, readiness, mounts, read_only })
}

fn variable(mut fields: Fields) -> Result<(String, Source)> {
    let name = fields.must("name")?;
    let source = match fields.optional("valueFrom")? {
        None => Source::Text(fields.text("value")?.unwrap_or_default()),
        Some(mut from) => {
            let source = if let Some(mut field) = from.optional("fieldRef")? {
                let path = field.must("fieldPath")?;
                field.finish()?;
                Source::Field(path)
            } else {
                let mut secret = from.section("secretKeyRef")?;
                let source = Source::Secret { name: secret.must("name")?, key: secret.must("key")? };
                secret.finish()?;
                source
            };
            from.finish()?;
            source
        }
    };
    fields.finish()?;
    Ok((name, source))
}
