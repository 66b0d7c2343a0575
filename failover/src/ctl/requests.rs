//! What changes something: asked first, then followed to its end.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::args::{Arguments, Output};
use super::endpoints::Controllers;
use super::print::{Style, Tone, confirm, json, out, who};
use super::{Failure, list, text};

/// Pause between looks at an operation.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) async fn change(
    controllers: &Controllers,
    arguments: &Arguments,
    kind: &str,
    to: Option<&str>,
    dry_run: bool,
    style: Style,
) -> Result<(), Failure> {
    let path = format!("/v1/{kind}");
    let body = |dry_run: bool| json!({ "to": to, "dry_run": dry_run, "by": who() });
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    let limit = Duration::from_secs(arguments.timeout.max(1));
    // Looked at first in any case: what is refused is refused before anybody is asked.
    let (_, plan) = controllers.post(&path, &body(true), limit).await?;
    if dry_run {
        return say(arguments, &plan, |plan| would(plan, style));
    }
    let target = plan["to"].as_str().map_or_else(|| "the best candidate".to_owned(), str::to_owned);
    let question = match kind {
        "failover" => format!("Give the primary up by force and promote {target}?"),
        _ => format!("Switch over to {target}?"),
    };
    confirm(&question, arguments.yes)?;
    let (_, accepted) = controllers.post(&path, &body(false), limit).await?;
    let Some(epoch) = accepted["operation"]["epoch"].as_u64() else {
        return Err(Failure::Unreachable(
            "the controller's answer is not understood: it names no operation".to_owned(),
        ));
    };
    follow(controllers, arguments, epoch, deadline, style).await
}

/// Waits for the end of the operation that began `epoch`.
async fn follow(
    controllers: &Controllers,
    arguments: &Arguments,
    epoch: u64,
    deadline: Instant,
    style: Style,
) -> Result<(), Failure> {
    let mut shown = 0;
    loop {
        // Controllers may change their leader meanwhile: a failure to look is no failure of the operation.
        if let Ok(record) = controllers.get(&format!("/v1/operations/{epoch}")).await {
            let stages = list(&record, "stages");
            if arguments.output == Output::Table {
                for stage in stages.iter().skip(shown) {
                    let at = stage["at_ms"].as_u64().unwrap_or(0);
                    out(&format!("  {at:>6} ms  {}  {}\n", text(stage, "name"), text(stage, "detail")));
                }
                shown = shown.max(stages.len());
            }
            match text(&record, "outcome") {
                "running" => {}
                "done" => {
                    let to = record["to"].as_str().unwrap_or("?").to_owned();
                    return say(arguments, &record, |_| {
                        format!("{}\n", style.paint(Tone::Good, &format!("{to} is the primary")))
                    });
                }
                outcome => {
                    if arguments.output == Output::Json {
                        json(&record);
                    }
                    let last = stages.last().map(|s| text(s, "detail")).unwrap_or_default();
                    return Err(Failure::Refused(format!("the operation was {}: {last}", outcome.replace('_', " "))));
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(Failure::Unfinished(format!(
                "epoch {epoch} is under way and not finished within {} s; see batonctl history {epoch}",
                arguments.timeout
            )));
        }
        sleep(LOOK).await;
    }
}

pub(super) fn say(arguments: &Arguments, answer: &Value, words: impl Fn(&Value) -> String) -> Result<(), Failure> {
    match arguments.output {
        Output::Json => json(answer),
        Output::Table => out(&words(answer)),
    }
    Ok(())
}

fn would(plan: &Value, style: Style) -> String {
    let to = plan["to"].as_str().unwrap_or("the best candidate");
    let mut page = format!("would do: {} to {}\n", text(plan, "would"), style.paint(Tone::Good, to));
    if !text(plan, "reason").is_empty() {
        page.push_str(&format!("  {}\n", text(plan, "reason")));
    }
    for other in list(plan, "rejected") {
        page.push_str(&format!("  not {}: {}\n", text(other, "node"), text(other, "why")));
    }
    page
}

pub(crate) async fn pause(
    controllers: &Controllers,
    arguments: &Arguments,
    reason: Option<&str>,
    style: Style,
) -> Result<(), Failure> {
    let limit = Duration::from_secs(arguments.timeout.max(1));
    let (_, answer) = controllers.post("/v1/pause", &json!({ "reason": reason, "by": who() }), limit).await?;
    say(arguments, &answer, |a| {
        let by = text(&a["paused"], "by");
        format!("{}\n", style.paint(Tone::Warn, &format!("automatic failover is paused (by {by})")))
    })
}

pub(crate) async fn resume(controllers: &Controllers, arguments: &Arguments, style: Style) -> Result<(), Failure> {
    let limit = Duration::from_secs(arguments.timeout.max(1));
    let (_, answer) = controllers.post("/v1/resume", &json!({}), limit).await?;
    say(arguments, &answer, |_| format!("{}\n", style.paint(Tone::Good, "automatic failover works again")))
}

pub(crate) async fn rejoin(
    controllers: &Controllers,
    arguments: &Arguments,
    node: &str,
    clone: bool,
    donor: Option<&str>,
    style: Style,
) -> Result<(), Failure> {
    if clone {
        let of = donor.map_or_else(|| "another node's".to_owned(), |d| format!("{d}'s"));
        confirm(&format!("Replace all data of {node} by a copy of {of}?"), arguments.yes)?;
    }
    let body = json!({ "node": node, "clone": clone, "donor": donor });
    let limit = Duration::from_secs(arguments.timeout.max(1));
    let (_, answer) = controllers.post("/v1/rejoin", &body, limit).await?;
    say(arguments, &answer, |a| {
        let how = match a["donor"].as_str() {
            Some(donor) => format!("takes a copy of {donor}, then follows {}", text(a, "relay")),
            None => format!("follows {}", text(a, "relay")),
        };
        format!("{} {how}\n", style.paint(Tone::Good, node))
    })
}

/// What is asked for.
pub(crate) struct Bootstrap<'a> {
    pub(crate) primary: &'a str,
    pub(crate) force: bool,
    pub(crate) if_needed: bool,
    pub(crate) dry_run: bool,
}

pub(crate) async fn bootstrap(
    controllers: &Controllers,
    arguments: &Arguments,
    wish: &Bootstrap<'_>,
    style: Style,
) -> Result<(), Failure> {
    let limit = Duration::from_secs(arguments.timeout.max(1));
    let deadline = Instant::now() + limit;
    let body = json!({ "primary": wish.primary, "force": wish.force, "dry_run": wish.dry_run, "by": who() });
    loop {
        let failure = match controllers.post("/v1/bootstrap", &body, limit).await {
            Ok((_, answer)) => {
                return say(arguments, &answer, |_| {
                    let word = if wish.dry_run { "would be" } else { "is" };
                    let epoch = answer["state"]["epoch"].as_u64().unwrap_or(1);
                    let told = format!("{} {word} the primary of epoch {epoch}", wish.primary);
                    format!("{}\n", style.paint(Tone::Good, &told))
                });
            }
            Err(failure) => failure,
        };
        if !wish.if_needed || matches!(failure, Failure::Usage(_)) {
            return Err(failure);
        }
        // Everything may still be starting; and somebody may have done it.
        if let Ok(cluster) = controllers.get("/v1/cluster").await {
            if !cluster["state"].is_null() {
                let primary = cluster["primary"].as_str().unwrap_or("none at present");
                return say(arguments, &cluster["state"], |_| format!("bootstrapped already; primary: {primary}\n"));
            }
        }
        if Instant::now() >= deadline {
            return Err(failure);
        }
        sleep(LOOK * 5).await;
    }
}
