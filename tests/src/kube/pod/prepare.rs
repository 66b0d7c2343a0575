//! A pod's volumes as directories, and its containers as command lines.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::super::image::Images;
use super::super::manifest::{Container, PodTemplate, Source, Volume};
use super::{Around, Inner, Running};
use crate::netns::Host;
use crate::procs::Cmd;

/// What makes a process a container; see there.
const SANDBOX: &str = include_str!("../sandbox.sh");

/// The init containers' command lines with their logs, and the pod.
pub(super) type Prepared = (Vec<(Cmd, PathBuf)>, Inner);

/// Makes volumes and command lines.
pub(super) fn prepare(
    name: &str,
    template: &PodTemplate,
    claims: &[String],
    host: &Host,
    around: &Around<'_>,
) -> Result<Prepared> {
    let home = around.bed.path(format!("pods/{name}"));
    let mut directories = BTreeMap::new();
    for (volume, kind) in &template.volumes {
        let directory = home.join("volumes").join(volume);
        fill(&directory, kind, template.group, around).with_context(|| format!("volume {volume} of {name}"))?;
        directories.insert(volume.clone(), directory);
    }
    for claim in claims {
        // Named as Kubernetes names claims: it outlives the pod.
        let directory = around.bed.path(format!("claims/{claim}-{name}"));
        shared_directory(&directory, template.group)?;
        directories.insert(claim.clone(), directory);
    }
    if let Some((token, ca, _)) = &around.api {
        let directory = home.join("volumes/kube-api-access");
        fs::create_dir_all(&directory)?;
        for (file, text) in [("token", token.as_str()), ("ca.crt", ca), ("namespace", around.namespace)] {
            private_file(&directory.join(file), text.as_bytes(), template.group, 0o644)?;
        }
        directories.insert(String::new(), directory);
    }
    let command = |container: &Container| -> Result<(Cmd, PathBuf)> {
        let cmd = command(name, container, template, host, &directories, &home, around)?;
        Ok((cmd, around.bed.log(&format!("{name}-{}", container.name))))
    };
    let first = template.first.iter().map(&command).collect::<Result<_>>()?;
    let mut containers = Vec::new();
    for container in &template.containers {
        let (cmd, log) = command(container)?;
        let (proc, restarts) = (Mutex::new(None), AtomicU32::new(0));
        containers.push(Running { container: container.clone(), cmd, log, proc, restarts });
    }
    let inner = Inner {
        name: name.to_owned(),
        labels: template.labels.clone(),
        node: around.node.clone(),
        host: host.clone(),
        ports: template.containers.iter().flat_map(|c| c.ports.clone()).collect(),
        containers,
        ready: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        grace: Duration::from_secs(template.grace),
    };
    Ok((first, inner))
}

fn fill(directory: &Path, kind: &Volume, group: u32, around: &Around<'_>) -> Result<()> {
    match kind {
        Volume::Empty => {
            shared_directory(directory, group)?;
            fs::set_permissions(directory, Permissions::from_mode(0o2777))?;
        }
        Volume::ConfigMap { name } => {
            fs::create_dir_all(directory)?;
            let data = around.config_maps.get(name).with_context(|| format!("there is no ConfigMap {name}"))?;
            for (file, text) in data {
                private_file(&directory.join(file), text.as_bytes(), group, 0o644)?;
            }
        }
        Volume::Secret { name, items, mode } => {
            fs::create_dir_all(directory)?;
            let data = (around.secrets)(name)?;
            let all = || data.keys().map(|key| (key.clone(), key.clone())).collect();
            let items = if items.is_empty() { all() } else { items.clone() };
            for (key, file) in items {
                let content = data.get(&key).with_context(|| format!("the Secret {name} has no key {key}"))?;
                private_file(&directory.join(file), content, group, *mode)?;
            }
        }
    }
    Ok(())
}

/// A directory for `fsGroup`.
fn shared_directory(directory: &Path, group: u32) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("can't create {}", directory.display()))?;
    if Images::may_be(group) {
        chown(directory, Some(0), Some(group))?;
    }
    Ok(fs::set_permissions(directory, Permissions::from_mode(0o2775))?)
}

fn private_file(path: &Path, content: &[u8], group: u32, mode: u32) -> Result<()> {
    fs::write(path, content).with_context(|| format!("can't write {}", path.display()))?;
    if Images::may_be(group) {
        chown(path, Some(0), Some(group))?;
    }
    Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
}

fn command(
    pod: &str,
    container: &Container,
    template: &PodTemplate,
    host: &Host,
    directories: &BTreeMap<String, PathBuf>,
    home: &Path,
    around: &Around<'_>,
) -> Result<Cmd> {
    let root = home.join(format!("root-{}", container.name));
    fs::create_dir_all(&root)?;
    let image = around.images.of(&container.image)?;
    let (user, group) = (template.user, template.group);
    let how = if Images::may_be(user) && Images::may_be(group) { "switch" } else { "map" };
    let mut cmd = host.cmd("unshare").args(["--mount", "--pid", "--fork", "--uts", "--ipc", "--kill-child"]);
    cmd = cmd.args(["sh", "-c", SANDBOX, "sandbox"]).arg(&root).arg(image.base);
    cmd = cmd.args([&user.to_string(), &group.to_string(), how, pod]).arg(&around.etc);
    cmd = cmd.arg(if container.read_only { "1" } else { "0" });
    for (name, file) in &image.programs {
        cmd = cmd.arg("program").arg(file).arg(name);
    }
    if let Some(directory) = directories.get("") {
        cmd = cmd.arg("mount").arg(directory).args(["/var/run/secrets/kubernetes.io/serviceaccount", "ro"]);
    }
    for mount in &container.mounts {
        let directory = directories.get(&mount.volume).with_context(|| format!("{pod}: no volume {}", mount.volume))?;
        cmd = cmd.arg("mount").arg(directory).arg(&mount.path).arg(if mount.read_only { "ro" } else { "rw" });
    }
    let env = environment(pod, container, template, host, around)?;
    cmd = cmd.arg("--").args(env.iter().map(|(key, value)| format!("{key}={value}"))).arg("--");
    Ok(cmd.args(container.command.iter().map(|word| expand(word, &env))))
}

fn environment(
    pod: &str,
    container: &Container,
    template: &PodTemplate,
    host: &Host,
    around: &Around<'_>,
) -> Result<Vec<(String, String)>> {
    let mut env: Vec<(String, String)> = Vec::new();
    if let Some((_, _, at)) = &around.api {
        env.push(("KUBERNETES_SERVICE_HOST".to_owned(), at.ip().to_string()));
        env.push(("KUBERNETES_SERVICE_PORT".to_owned(), at.port().to_string()));
    }
    for (name, source) in &container.env {
        let value = match source {
            Source::Text(text) => expand(text, &env),
            Source::Secret { name, key } => {
                let content = (around.secrets)(name)?.remove(key);
                String::from_utf8(content.with_context(|| format!("the Secret {name} has no key {key}"))?)?
            }
            Source::Field(path) => match path.as_str() {
                "metadata.name" => pod.to_owned(),
                "metadata.namespace" => around.namespace.to_owned(),
                "spec.nodeName" => around.node.clone(),
                "spec.serviceAccountName" => template.account.clone().unwrap_or_default(),
                "status.podIP" => host.ip().to_string(),
                other => bail!("{pod}: the runner has no field {other}"),
            },
        };
        ensure!(!value.contains('\0'), "{pod}: {name} holds a NUL");
        env.push((name.clone(), value));
    }
    Ok(env)
}

/// `$(NAME)` of variables that are there; `$$(NAME)` stays as `$(NAME)`.
fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let name = rest.strip_prefix("$(").and_then(|inside| inside.split_once(')')).map(|(name, _)| name);
        let known = name.and_then(|name| env.iter().rev().find(|(key, _)| key == name).map(|found| (name, &found.1)));
        if let Some((name, value)) = known {
            out.push_str(value);
            rest = &rest[name.len() + 3..];
        } else {
            let taken = if rest.starts_with("$$") { 2 } else { 1 };
            out.push('$');
            rest = &rest[taken..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_as_kubernetes_does() {
        let env = vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x y".to_owned())];
        for (text, want) in [
            ("$(A).toml", "1.toml"),
            ("-$(B)$(A)-", "-x y1-"),
            ("$(C)$", "$(C)$"),
            ("$$(A)", "$(A)"),
            ("$A", "$A"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &env), want, "{text}");
        }
    }
}
