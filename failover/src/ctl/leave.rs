//! `leave`: gives the cluster up.

use std::time::Duration;

use serde_json::{Value, json};

use super::args::Arguments;
use super::endpoints::Controllers;
use super::print::{Style, Tone, confirm, who};
use super::requests::say;
use super::{Failure, list, text};

pub(crate) async fn leave(
    controllers: &Controllers,
    arguments: &Arguments,
    force: bool,
    dry_run: bool,
    style: Style,
) -> Result<(), Failure> {
    let limit = Duration::from_secs(arguments.timeout.max(1));
    let body = |dry_run: bool| json!({ "force": force, "dry_run": dry_run, "by": who() });
    // Looked at first in any case: what is refused is refused before anybody is asked.
    let (_, plan) = controllers.post("/v1/leave", &body(true), limit).await?;
    if dry_run {
        return say(arguments, &plan, |plan| page(plan, style));
    }
    if !arguments.yes {
        eprint!("{}", page(&plan, style));
    }
    confirm("Give the cluster up?", arguments.yes)?;
    let (_, answer) = controllers.post("/v1/leave", &body(false), limit).await?;
    say(arguments, &answer, |answer| page(answer, style))?;
    if answer["done"] == true {
        return Ok(());
    }
    let missing: Vec<&str> =
        list(&answer, "nodes").iter().filter(|n| n["done"] != true).map(|n| text(n, "node")).collect();
    Err(Failure::Unfinished(format!(
        "the cluster is given up, but {} {} not let go of yet: batonctl leave again tells whether it is",
        missing.join(", "),
        if missing.len() == 1 { "is" } else { "are" }
    )))
}

fn page(answer: &Value, style: Style) -> String {
    let dry_run = answer["dry_run"] == true;
    let mut page = match dry_run {
        true => "would give the cluster up:\n".to_owned(),
        false => {
            format!("{}\n", style.paint(Tone::Warn, &format!("the cluster is given up (by {})", text(answer, "by"))))
        }
    };
    for effect in list(answer, "effects").iter().filter_map(Value::as_str) {
        page.push_str(&format!("  {effect}\n"));
    }
    for node in list(answer, "nodes").iter().filter(|_| !dry_run) {
        let told = match node["done"] == true {
            true => style.paint(Tone::Good, "let go of"),
            false => style.paint(Tone::Bad, text(node, "why")),
        };
        page.push_str(&format!("{}: {told}\n", text(node, "node")));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_told_and_what_is_missing_too() {
        let answer = json!({"dry_run": false, "by": "user me", "effects": ["semi-sync is off on db-1"],
            "nodes": [{"node": "db-1", "done": true, "why": null}, {"node": "db-2", "done": false, "why": "it is away"}]});
        let told = page(&answer, Style::plain());
        for words in ["given up (by user me)", "  semi-sync is off on db-1", "db-1: let go of", "db-2: it is away"] {
            assert!(told.contains(words), "{told}");
        }
        let dry = page(&json!({"dry_run": true, "effects": [], "nodes": []}), Style::plain());
        assert_eq!(dry, "would give the cluster up:\n");
    }
}
