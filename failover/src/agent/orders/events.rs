//! The server's own timed statements: they run on the primary only. Changed without a trace in the binlog.

use crate::agent::sql::{Session, SqlError, identifier, literal};

/// An event: schema, name, definer.
type Event = (String, String, String);

async fn with_status(session: &mut Session, status: &str) -> Result<Vec<Event>, SqlError> {
    let statement = format!(
        "SELECT EVENT_SCHEMA, EVENT_NAME, DEFINER FROM information_schema.EVENTS WHERE STATUS={}",
        literal(status)
    );
    session.rows(&statement).await
}

/// The definer is said again: whoever alters an event becomes its definer otherwise.
fn alter((schema, name, definer): &Event, to: &str) -> String {
    let (user, host) = definer.rsplit_once('@').unwrap_or((definer, "%"));
    format!(
        "ALTER DEFINER={}@{} EVENT {}.{} {to}",
        identifier(user),
        identifier(host),
        identifier(schema),
        identifier(name)
    )
}

/// Enables what replication, or [`disable`], has disabled here. How many.
pub(crate) async fn enable(session: &mut Session) -> Result<usize, SqlError> {
    let events = with_status(session, "SLAVESIDE_DISABLED").await?;
    for event in &events {
        session.run(&alter(event, "ENABLE")).await?;
    }
    Ok(events.len())
}

/// Disables what would run here, in the way in which replication does. How many.
pub(crate) async fn disable(session: &mut Session) -> Result<usize, SqlError> {
    let events = with_status(session, "ENABLED").await?;
    for event in &events {
        session.run(&alter(event, "DISABLE ON SLAVE")).await?;
    }
    Ok(events.len())
}

/// Switches the scheduler, if it can be switched at all.
pub(super) async fn scheduler(session: &mut Session, on: bool) -> Result<(), SqlError> {
    let now: String = session.value("SELECT @@GLOBAL.event_scheduler").await?;
    match (now.as_str(), on) {
        ("OFF", true) => session.run("SET GLOBAL event_scheduler=ON").await,
        ("ON", false) => session.run("SET GLOBAL event_scheduler=OFF").await,
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn altering_an_event_leaves_its_definer() {
        let event = ("shop".to_owned(), "clean`up".to_owned(), "app@10.%".to_owned());
        assert_eq!(alter(&event, "ENABLE"), "ALTER DEFINER=`app`@`10.%` EVENT `shop`.`clean``up` ENABLE");
    }
}
