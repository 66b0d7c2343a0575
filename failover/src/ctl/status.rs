//! `batonctl status`, and showing anything anew at each change.

use std::time::Duration;

use serde_json::Value;

use super::args::{Arguments, Output};
use super::endpoints::Controllers;
use super::print::{Style, Tone, json, out};
use super::table::{Cell, Table};
use super::{Failure, duration, list, text};

/// A line of the stream comes at least each second.
const SILENCE: Duration = Duration::from_secs(5);

pub(crate) async fn status(
    controllers: &Controllers,
    arguments: &Arguments,
    watch: bool,
    style: Style,
) -> Result<(), Failure> {
    show(controllers, arguments, watch, |cluster| render(cluster, style)).await
}

/// Shows what `render` makes of the cluster's report: once, or at each change.
pub(crate) async fn show(
    controllers: &Controllers,
    arguments: &Arguments,
    watch: bool,
    render: impl Fn(&Value) -> String,
) -> Result<(), Failure> {
    if !watch {
        let cluster = controllers.get("/v1/cluster").await?;
        match arguments.output {
            Output::Json => json(&cluster),
            Output::Table => out(&render(&cluster)),
        }
        return Ok(());
    }
    loop {
        let mut lines = controllers.watch().await?;
        while let Ok(Some(line)) = lines.next(SILENCE).await {
            let Ok(mut line) = serde_json::from_slice::<Value>(&line) else { continue };
            let Some(cluster) = line.get_mut("cluster").map(Value::take) else { break };
            match arguments.output {
                Output::Json => out(&format!("{cluster}\n")),
                // Home, then clear what is below: no flicker.
                Output::Table => out(&format!("\x1b[H\x1b[2J{}", render(&cluster))),
            }
        }
        // That controller has gone: another one goes on, or this one does after its restart.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn render(c: &Value, style: Style) -> String {
    let mut page = head(c, style);
    page.push('\n');
    page.push_str(&nodes(c).render(style));
    page.push('\n');
    page.push_str(&relays(c).render(style));
    page.push_str(&words(c, style));
    page
}

fn head(c: &Value, style: Style) -> String {
    let cluster = style.paint(Tone::Strong, text(c, "cluster"));
    let mut line = vec![cluster];
    match c.get("state").filter(|s| !s.is_null()) {
        None => line.push(style.paint(Tone::Warn, &without_state(c))),
        Some(state) => {
            line.push(format!("epoch {}", state["epoch"]));
            match c["primary"].as_str() {
                Some(primary) => line.push(format!("primary {}", style.paint(Tone::Good, primary))),
                None => line.push(style.paint(Tone::Bad, "no primary")),
            }
            match state["grant_holder"].as_str() {
                Some(holder) => line.push(format!("acker {holder}")),
                None => line.push(style.paint(Tone::Bad, "no acker")),
            }
        }
    }
    let address = &c["address"];
    if let Some(vip) = address["vip"].as_str() {
        let held: Vec<&str> = list(address, "held_by").iter().filter_map(Value::as_str).collect();
        let at = match (held.as_slice(), text(address, "provider")) {
            (_, provider) if provider != "agent" => format!("by {provider}"),
            ([], _) => style.paint(Tone::Bad, "held by nobody"),
            ([one], _) => format!("on {one}"),
            (many, _) => style.paint(Tone::Bad, &format!("on {}", many.join(" and "))),
        };
        line.push(format!("{vip} {at}"));
    }
    let mut page = format!("{}\n", line.join(" · "));
    let leader = match c.get("leader").filter(|l| !l.is_null()) {
        Some(leader) => format!("{} leads (term {})", text(leader, "name"), leader["term"]),
        None => style.paint(Tone::Bad, "no controller leads"),
    };
    let controllers = list(c, "controllers").len();
    let etcd = if c["etcd"]["healthy"] == true {
        "etcd answers".to_owned()
    } else {
        style.paint(Tone::Bad, "etcd does not answer")
    };
    page.push_str(&format!("{leader} of {controllers} · {etcd}"));
    if let Some(guard) = c.get("guard").filter(|g| !g.is_null()) {
        page.push_str(&format!(" · {} of {} automatic failovers left", guard["left"], guard["max"]));
    }
    page.push('\n');
    if let Some(paused) = c.get("paused").filter(|p| !p.is_null()) {
        let why = text(paused, "reason");
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        let line = format!("automatic failover is paused by {}{why}", text(paused, "by"));
        page.push_str(&format!("{}\n", style.paint(Tone::Warn, &line)));
    }
    if let Some(operation) = c.get("operation").filter(|o| !o.is_null()) {
        let to = operation["to"].as_str().unwrap_or("?");
        let line = format!(
            "{} under way: {} -> {to}, {} (epoch {})",
            text(operation, "kind"),
            operation["from"].as_str().unwrap_or("?"),
            text(operation, "phase"),
            operation["epoch"]
        );
        page.push_str(&format!("{}\n", style.paint(Tone::Warn, &line)));
        for step in list(operation, "steps").iter().filter_map(Value::as_str) {
            page.push_str(&format!("  {step}\n"));
        }
    }
    page
}

fn without_state(c: &Value) -> String {
    match c.get("left").filter(|l| !l.is_null()) {
        Some(left) => format!(
            "given up by {} at {}: batonctl bootstrap --primary NODE takes it up again",
            text(left, "by"),
            text(left, "at")
        ),
        None => "not bootstrapped: batonctl bootstrap --primary NODE".to_owned(),
    }
}

fn tone_of_role(role: &str) -> Tone {
    match role {
        "primary" | "acker" => Tone::Good,
        "down" | "diverged" => Tone::Bad,
        "fenced" | "unknown" | "unassigned" | "idle" => Tone::Warn,
        _ => Tone::Plain,
    }
}

fn tone_of_answer(answer: &str) -> Tone {
    match answer {
        "answers" => Tone::Plain,
        "none" => Tone::Dim,
        "alive" | "unknown" => Tone::Warn,
        _ => Tone::Bad,
    }
}

/// Lag, with its bottleneck where there is one.
pub(crate) fn lag_cell(value: &Value) -> Cell {
    match value["lag_ms"].as_u64() {
        None => Cell::default(),
        Some(ms) => Cell::new(duration(ms), if ms < 1000 { Tone::Plain } else { Tone::Warn }),
    }
}

fn nodes(c: &Value) -> Table {
    let mut table = Table::new(&[
        "NODE",
        "ROLE",
        "SERVER",
        "AGENT",
        "WRITES",
        "RELAY",
        "LAG",
        "BOTTLENECK",
        "GTID",
        "CAN BE PROMOTED",
    ]);
    for node in list(c, "nodes") {
        let role = text(node, "role");
        let sql = text(node, "sql");
        let server = match node["mysqld"].as_str() {
            Some("dead") => Cell::new("dead", Tone::Bad),
            Some("waiting") => Cell::new("waits to start", Tone::Warn),
            _ => Cell::new(sql, tone_of_answer(sql)),
        };
        let agent = text(node, "agent");
        let writes = match (node["read_only"].as_bool(), role) {
            (None, _) => Cell::default(),
            (Some(false), "primary" | "candidate") => Cell::new("yes", Tone::Good),
            (Some(false), _) => Cell::new("yes", Tone::Bad),
            (Some(true), "primary") => Cell::new("no", Tone::Bad),
            (Some(true), _) => Cell::new("no", Tone::Dim),
        };
        let promotable = match (node["candidate"].as_bool(), node["why_not"].as_str()) {
            _ if role == "primary" => Cell::default(),
            (Some(true), _) if c["candidate"] == node["name"] => Cell::new("yes, the next", Tone::Good),
            (Some(true), _) => Cell::new("yes", Tone::Good),
            (_, Some(why)) => Cell::new(format!("no: {why}"), Tone::Warn),
            _ => Cell::default(),
        };
        table.row(vec![
            Cell::new(text(node, "name"), Tone::Strong),
            Cell::new(role, tone_of_role(role)),
            server,
            Cell::new(agent, tone_of_answer(agent)),
            writes,
            text(node, "relay").into(),
            lag_cell(node),
            text(node, "bottleneck").into(),
            Cell::new(text(node, "gtid"), Tone::Dim),
            promotable,
        ]);
    }
    table
}

fn relays(c: &Value) -> Table {
    let mut table = Table::new(&["RELAY", "ROLE", "STREAM", "FROM", "LOG", "REPLICAS", "GTID", "ERROR"]);
    for relay in list(c, "relays") {
        let role = text(relay, "role");
        let log = match (relay["writable"].as_bool(), relay["complete"].as_bool()) {
            _ if relay["answers"] == false => Cell::default(),
            (_, Some(false)) => Cell::new("damaged", Tone::Bad),
            (Some(false), _) => Cell::new("not writable", Tone::Bad),
            _ => Cell::new("whole", Tone::Plain),
        };
        let upstream = text(relay, "upstream");
        let tone = if upstream == "streaming" { Tone::Plain } else { Tone::Warn };
        let replicas = list(relay, "replicas").len();
        table.row(vec![
            Cell::new(text(relay, "name"), Tone::Strong),
            Cell::new(role, tone_of_role(role)),
            Cell::new(upstream, tone),
            text(relay, "upstream_address").into(),
            log,
            replicas.to_string().into(),
            Cell::new(text(relay, "head"), Tone::Dim),
            Cell::new(text(relay, "error"), Tone::Bad),
        ]);
    }
    table
}

/// What is refused, and what is wrong.
fn words(c: &Value, style: Style) -> String {
    let mut page = String::new();
    if let Some(refusing) = c.get("refusing").filter(|r| !r.is_null()) {
        page.push_str(&format!(
            "\n{} {}\n    {}\n",
            style.paint(Tone::Bad, &format!("no {}:", text(refusing, "what"))),
            text(refusing, "why"),
            style.paint(Tone::Dim, text(refusing, "hint"))
        ));
    }
    let problems = list(c, "problems");
    if !problems.is_empty() {
        page.push('\n');
    }
    for problem in problems {
        let severity = text(problem, "severity");
        let tone = match severity {
            "critical" => Tone::Bad,
            "warning" => Tone::Warn,
            _ => Tone::Dim,
        };
        page.push_str(&format!(
            "{} {}: {}\n    {}\n",
            style.paint(tone, severity),
            text(problem, "subject"),
            text(problem, "text"),
            style.paint(Tone::Dim, text(problem, "hint"))
        ));
    }
    if problems.is_empty() && c["refusing"].is_null() && !c["state"].is_null() {
        page.push_str(&format!("\n{}\n", style.paint(Tone::Good, "nothing is wrong")));
    }
    page
}
