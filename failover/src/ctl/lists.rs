//! `batonctl topology`, `lag` and `history`.

use serde_json::Value;

use super::args::{Arguments, Output};
use super::endpoints::Controllers;
use super::print::{Style, Tone, json, out};
use super::status::{lag_cell, show};
use super::table::{Cell, Table};
use super::{Failure, duration, list, text};

pub(crate) async fn topology(
    controllers: &Controllers,
    arguments: &Arguments,
    watch: bool,
    style: Style,
) -> Result<(), Failure> {
    show(controllers, arguments, watch, |c| tree(c, style)).await
}

/// The primary, the acker behind it, standbys behind that one, and each one's replicas.
fn tree(c: &Value, style: Style) -> String {
    let mut page = String::new();
    let primary = c["primary"].as_str();
    let place = |member: &Value| {
        let at: Vec<&str> =
            [text(member, "host"), text(member, "site")].into_iter().filter(|t| !t.is_empty()).collect();
        if at.is_empty() { String::new() } else { style.paint(Tone::Dim, &format!("  ({})", at.join(", "))) }
    };
    let nodes = list(c, "nodes");
    match nodes.iter().find(|n| primary.is_some_and(|p| n["name"] == p)) {
        Some(node) => {
            let name = style.paint(Tone::Good, text(node, "name"));
            page.push_str(&format!("{name}  primary{}\n", place(node)));
        }
        None => page.push_str(&format!("{}\n", style.paint(Tone::Bad, "no primary"))),
    }
    let mut relays: Vec<&Value> = list(c, "relays").iter().collect();
    relays.sort_by_key(|r| r["holder"] != true);
    let mut attached: Vec<&str> = primary.into_iter().collect();
    let mut depth = 0;
    for relay in relays {
        depth = if relay["holder"] == true { 1 } else { depth.max(1) };
        let behind_acker = relay["holder"] != true && relay["role"] == "standby";
        let indent = "   ".repeat(if behind_acker { 2 } else { 1 });
        let role = text(relay, "role");
        let tone = if role == "down" { Tone::Bad } else { Tone::Strong };
        page.push_str(&format!("{indent}{}  {role}{}\n", style.paint(tone, text(relay, "name")), place(relay)));
        for replica in list(relay, "replicas") {
            let name = text(replica, "name");
            if list(c, "relays").iter().any(|r| r["name"] == name) {
                continue;
            }
            attached.push(name);
            let node = nodes.iter().find(|n| n["name"] == name);
            let lag = replica["lag_ms"].as_u64().map(|ms| format!("  {} behind", duration(ms))).unwrap_or_default();
            let at = node.map(place).unwrap_or_default();
            page.push_str(&format!("{indent}   {name}  replica{lag}{at}\n"));
        }
    }
    for node in nodes.iter().filter(|n| !attached.contains(&text(n, "name"))) {
        let role = text(node, "role");
        let name = style.paint(Tone::Warn, text(node, "name"));
        page.push_str(&format!("{name}  {role}, attached to no relay{}\n", place(node)));
    }
    page
}

pub(crate) async fn lag(
    controllers: &Controllers,
    arguments: &Arguments,
    watch: bool,
    style: Style,
) -> Result<(), Failure> {
    show(controllers, arguments, watch, |c| {
        let mut table = Table::new(&["REPLICA", "RELAY", "LAG", "BOTTLENECK", "RECEIVED", "APPLIED", "ERROR"]);
        for relay in list(c, "relays") {
            for replica in list(relay, "replicas") {
                let lag = lag_cell(replica);
                table.row(vec![
                    Cell::new(text(replica, "name"), Tone::Strong),
                    text(relay, "name").into(),
                    lag,
                    Cell::new(text(replica, "bottleneck"), Tone::Warn),
                    Cell::new(text(replica, "received"), Tone::Dim),
                    Cell::new(text(replica, "applied"), Tone::Dim),
                    Cell::new(text(replica, "error"), Tone::Bad),
                ]);
            }
        }
        let page = table.render(style);
        if page.is_empty() { "no replica is attached to any relay\n".to_owned() } else { page }
    })
    .await
}

pub(crate) async fn history(
    controllers: &Controllers,
    arguments: &Arguments,
    epoch: Option<u64>,
    style: Style,
) -> Result<(), Failure> {
    let path = epoch.map_or_else(|| "/v1/history".to_owned(), |e| format!("/v1/operations/{e}"));
    let answer = controllers.get(&path).await?;
    if arguments.output == Output::Json {
        json(&answer);
        return Ok(());
    }
    if epoch.is_some() {
        out(&operation(&answer, style));
        return Ok(());
    }
    let mut table = Table::new(&["EPOCH", "WHAT", "FROM", "TO", "OUTCOME", "TOOK", "STARTED", "BY", "WHY"]);
    for record in list(&answer, "operations") {
        let outcome = text(record, "outcome");
        table.row(vec![
            record["epoch"].to_string().into(),
            text(record, "kind").into(),
            text(record, "from").into(),
            text(record, "to").into(),
            Cell::new(outcome, tone_of_outcome(outcome)),
            took(record).into(),
            Cell::new(text(record, "started"), Tone::Dim),
            text(&record["cause"], "by").into(),
            text(&record["cause"], "reason").into(),
        ]);
    }
    let page = table.render(style);
    out(if page.is_empty() { "nothing has happened yet\n" } else { &page });
    Ok(())
}

fn tone_of_outcome(outcome: &str) -> Tone {
    match outcome {
        "done" => Tone::Good,
        "running" | "taken_back" => Tone::Warn,
        _ => Tone::Dim,
    }
}

/// From the beginning to the last stage.
fn took(record: &Value) -> String {
    list(record, "stages").last().and_then(|s| s["at_ms"].as_u64()).map(duration).unwrap_or_default()
}

/// All about one operation.
pub(crate) fn operation(record: &Value, style: Style) -> String {
    let outcome = text(record, "outcome");
    let mut page = format!(
        "epoch {}: {} {} -> {}, {}\n",
        record["epoch"],
        text(record, "kind"),
        record["from"].as_str().unwrap_or("?"),
        record["to"].as_str().unwrap_or("?"),
        style.paint(tone_of_outcome(outcome), outcome)
    );
    page.push_str(&format!("  by {}: {}\n", text(&record["cause"], "by"), text(&record["cause"], "reason")));
    page.push_str(&format!("  {} to {}\n", text(record, "started"), record["finished"].as_str().unwrap_or("now")));
    for evidence in list(record, "evidence").iter().filter_map(Value::as_str) {
        page.push_str(&format!("  {}\n", style.paint(Tone::Dim, &format!("seen: {evidence}"))));
    }
    let mut table = Table::new(&["AT", "STAGE", "DETAIL"]);
    for stage in list(record, "stages") {
        let at = stage["at_ms"].as_u64().map(|ms| format!("{ms} ms")).unwrap_or_default();
        table.row(vec![at.into(), Cell::new(text(stage, "name"), Tone::Strong), text(stage, "detail").into()]);
    }
    page.push_str(&table.render(style));
    page
}
