//! `batonctl show-config` and `edit-config`.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::args::{Arguments, Output};
use super::endpoints::Controllers;
use super::print::{Style, Tone, confirm, json, out};
use super::table::{Cell, Table};
use super::{Failure, text};

pub(crate) async fn show(controllers: &Controllers, arguments: &Arguments, style: Style) -> Result<(), Failure> {
    let answer = controllers.get("/v1/config").await?;
    match arguments.output {
        Output::Json => json(&answer),
        Output::Table => out(&render(&answer, style)),
    }
    Ok(())
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn render(answer: &Value, style: Style) -> String {
    let mut table = Table::new(&["SETTING", "VALUE", "FROM"]);
    let mut row = |key: &str, value: String, changed: bool| {
        let from = if changed { Cell::new("edit-config", Tone::Warn) } else { Cell::new("file", Tone::Dim) };
        table.row(vec![Cell::new(key, Tone::Strong), value.into(), from]);
    };
    row("provider", text(answer, "provider").to_owned(), false);
    if let Some(vip) = answer["vip"].as_str() {
        row("vip", vip.to_owned(), false);
    }
    for (key, value) in answer["policy"].as_object().into_iter().flatten() {
        row(key, shown(value), answer["changed"].get(key).is_some());
    }
    table.render(style)
}

pub(crate) async fn edit(
    controllers: &Controllers,
    arguments: &Arguments,
    set: &[String],
    style: Style,
) -> Result<(), Failure> {
    let before = controllers.get("/v1/config").await?;
    let mut changed = before["changed"].as_object().cloned().unwrap_or_default();
    if set.is_empty() {
        changed = in_editor(&before, &changed)?;
    }
    for assignment in set {
        let (key, value) = assignment
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("--set {assignment}: write key=value, such as max_lag=5s")))?;
        if value.is_empty() {
            changed.remove(key);
        } else {
            let value = value.parse::<i64>().map_or_else(|_| Value::from(value), Value::from);
            changed.insert(key.to_owned(), value);
        }
    }
    if Some(&changed) == before["changed"].as_object() {
        out("nothing is changed\n");
        return Ok(());
    }
    confirm(&format!("Change the settings of all controllers to {}?", Value::Object(changed.clone())), arguments.yes)?;
    let body = json!({ "policy": changed, "revision": before["revision"] });
    let limit = Duration::from_secs(arguments.timeout.max(1));
    let (_, answer) = controllers.post("/v1/config", &body, limit).await?;
    match arguments.output {
        Output::Json => json(&answer),
        Output::Table => out(&render(&answer, style)),
    }
    Ok(())
}

/// Lets the user edit what differs from the files, as JSON with everything else as a comment.
fn in_editor(before: &Value, changed: &Map<String, Value>) -> Result<Map<String, Value>, Failure> {
    let editor = std::env::var("VISUAL").or_else(|_| std::env::var("EDITOR")).unwrap_or_else(|_| "vi".to_owned());
    let failed = |what: &str, e: &dyn std::fmt::Display| Failure::Usage(format!("{what}: {e}"));
    let mut comments =
        String::from("# What is to differ from the controllers' files. Known keys, with the values in force:\n");
    for (key, value) in before["policy"].as_object().into_iter().flatten() {
        comments.push_str(&format!("#   \"{key}\": {value}\n"));
    }
    let directory = std::env::temp_dir();
    let path = directory.join(format!("batonctl-{}.json", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
        writeln!(file, "{comments}{:#}", Value::Object(changed.clone()))
    };
    write().map_err(|e| failed(&format!("{} can't be written", path.display()), &e))?;
    let status = std::process::Command::new("/bin/sh").args(["-c", &format!("{editor} \"$0\"")]).arg(&path).status();
    let text = std::fs::read_to_string(&path);
    let _ = std::fs::remove_file(&path);
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(failed(&format!("the editor {editor} failed"), &status)),
        Err(error) => return Err(failed(&format!("the editor {editor} can't be started"), &error)),
    }
    let text = text.map_err(|e| failed(&format!("{} can't be read", path.display()), &e))?;
    let text: String = text.lines().filter(|l| !l.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Failure::Usage("an object is wanted, such as {\"max_lag\":\"5s\"}".to_owned())),
        Err(error) => Err(failed("what was written is not JSON", &error)),
    }
}
