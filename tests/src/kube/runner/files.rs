//! What the runner reads and writes: the rendered chart, Secrets, `/etc` of the containers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::api::ApiServer;
use super::super::objects::Kind;
use super::NAMESPACE;
use crate::dir::{self, Bed};
use crate::procs::Cmd;

/// The content of a Secret.
pub(super) fn secret(api: &ApiServer, name: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let found = api.objects().get(Kind::Secret, NAMESPACE, name);
    let found = found.map_err(|refused| anyhow::anyhow!("{}", refused.message))?;
    let data = found["data"].as_object().cloned().unwrap_or_default();
    data.into_iter().map(|(key, value)| Ok((key, unbase64(value.as_str().unwrap_or_default())?))).collect()
}

fn unbase64(text: &str) -> Result<Vec<u8>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = DIGITS.iter().position(|digit| *digit == byte).context("no base64")?;
        bits = (bits << 6) | u32::try_from(digit)?;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff)?);
        }
    }
    Ok(out)
}

/// For the packages and for rendering.
const PYTHON: Duration = Duration::from_secs(300);

/// `/etc` of every container.
pub(super) fn etc_of(etc: &Path) -> Result<()> {
    fs::create_dir_all(etc)?;
    let users = "root:x:0:0:root:/:/sbin/nologin\nmysql:x:999:999:mysql:/nonexistent:/sbin/nologin\nbaton:x:10001:10001:baton:/:/sbin/nologin\n";
    fs::write(etc.join("passwd"), users)?;
    fs::write(etc.join("group"), "root:x:0:\nmysql:x:999:\nbaton:x:10001:\n")?;
    fs::write(etc.join("nsswitch.conf"), "hosts: files\n")?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost\n")?;
    fs::copy("/etc/ld.so.cache", etc.join("ld.so.cache")).context("can't copy /etc/ld.so.cache")?;
    Ok(())
}

/// Every object that the chart renders.
pub(super) fn render(bed: &Bed, name: &str, values: &[&Path], upgrade: bool) -> Result<Vec<Value>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let base = dir::base()?;
    let venv = base.parent().context("the test bed lies in no directory")?.join("chart-python");
    let one_at_a_time = dir::lock(&base.join("chart-python.lock"))?;
    let install = Cmd::new(root.join("scripts/python-clients.sh")).arg(&venv);
    install.arg(root.join("tests/chart/requirements.txt")).run(&bed.path("chart-python"), PYTHON)?;
    drop(one_at_a_time);
    let mut render = Cmd::new(venv.join("bin/python")).arg("-B").arg(root.join("tests/chart/render.py"));
    render = render.args([name, NAMESPACE]).args(upgrade.then_some("--upgrade")).args(values);
    let text = render.run(&bed.path("render"), PYTHON)?;
    serde_json::from_str(&text).context("the renderer printed no JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (text, want) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob")] {
            assert_eq!(unbase64(text).unwrap(), want.as_bytes());
        }
        assert!(unbase64("*").is_err());
    }
}
